"""Errors and intervals: what crosses the stages evaluation and errors."""
import numpy as np
import pandas as pd
import pytest

from frcnn_nbdev.errors import (ERROR_KINDS, best_thresholds, bootstrap_intervals, compare_models, error_gains,
                                error_kinds, expected_calibration_error, reliability, resample_weights)
from frcnn_nbdev.evaluation import evaluate, match_detections, precision_recall

CLASSES = ["AC", "HC"]


def tables(seed, images=24, group=3):
    "One or two objects an image, some images without; detections moved, swapped, doubled, left out, invented."
    rng = np.random.default_rng(seed)
    rows, found = [], []
    for image in range(images):
        name, exam = f"{image:02d}.png", f"exam {image // group}"
        objects = rng.integers(0, 3)
        if not objects:
            rows.append((name, *[np.nan] * 4, "", exam))
        for number in range(objects):
            x, size = 150.0 * number + rng.uniform(0, 20), rng.uniform(40, 90)
            rows.append((name, x, x + size, 0.0, size, CLASSES[rng.integers(2)], exam))
            for _ in range(rng.integers(0, 3)):
                move = rng.normal(0, 0.2) * size
                found.append((name, x + move, x + size + move, 0.0, size, CLASSES[rng.integers(2)], rng.integers(1, 9) / 10))
        found.append((name, 300.0, 340.0, 0.0, 40.0, "HC", rng.integers(1, 5) / 10))
    return (pd.DataFrame(rows, columns=["name", "x1", "x2", "y1", "y2", "classname", "group"]),
            pd.DataFrame(found, columns=["name", "x1", "x2", "y1", "y2", "classname", "score"]))


@pytest.mark.parametrize("seed", range(5))
def test_point_estimates_are_the_metrics_of_a_report(seed):
    truth, predictions = tables(seed)
    intervals = bootstrap_intervals(truth, predictions, CLASSES, resamples=50)
    metrics = evaluate(truth, predictions, CLASSES)
    for name, row in intervals.iterrows():
        assert row["value"] == pytest.approx(metrics[name], abs=1e-6), name
        assert row["low"] <= row["high"]


def test_a_seed_decides_and_a_generator_goes_on():
    truth, predictions = tables(0)
    first, again = [bootstrap_intervals(truth, predictions, CLASSES, resamples=20, seed=3) for _ in range(2)]
    pd.testing.assert_frame_equal(first, again)
    rng = np.random.default_rng(3)
    pd.testing.assert_frame_equal(first, bootstrap_intervals(truth, predictions, CLASSES, resamples=20, seed=rng))
    assert not first.equals(bootstrap_intervals(truth, predictions, CLASSES, resamples=20, seed=rng))


def test_exams_are_drawn_as_a_whole():
    weights = resample_weights(np.array([0, 0, 1, 2, 2, 2]), 200, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 2] + weights[:, 3] == 3).all()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_every_detection_and_object_has_one_kind(seed):
    truth, predictions = tables(seed)
    kinds = error_kinds(truth, predictions, CLASSES)
    assert set(kinds["kind"]) <= {"right", *ERROR_KINDS}
    assert (kinds["kind"] != "missed").sum() == len(predictions)
    gains = error_gains(truth, predictions, CLASSES)
    counts = kinds["kind"].value_counts()
    assert [counts.get(kind, 0) for kind in ERROR_KINDS] == gains["count"][list(ERROR_KINDS)].tolist()
    assert gains["count"]["false positives"] == (~kinds["kind"].isin(["right", "missed"])).sum()
    # To delete wrong detections can only help.
    assert (gains["gain"][["both", "duplicate", "background", "false positives"]] >= -1e-12).all()


def test_mending_everything_gives_one():
    truth, predictions = tables(1)
    kinds = error_kinds(truth, predictions, CLASSES)
    right = kinds[kinds["kind"] == "right"].drop(columns="kind")
    found = right.merge(truth.drop(columns="group"), on="name", suffixes=("", "_true"))
    assert len(found) and evaluate(truth, right, CLASSES)["AP50"] == pytest.approx(
        evaluate(truth, predictions, CLASSES)["AP50"] + error_gains(truth, predictions, CLASSES).loc["false positives", "gain"], abs=1e-6)


def test_a_model_differs_from_a_worse_one_and_not_from_itself():
    truth, predictions = tables(2, images=60)
    perfect = truth.dropna().drop(columns="group").assign(score=0.9)
    compared = compare_models(truth, predictions, perfect, CLASSES, resamples=200)
    assert (compared["low"] > 0).all() and (compared["p"] < 0.02).all() and compared.loc["AP", "b"] == 1.0
    same = compare_models(truth, predictions, predictions, CLASSES, resamples=50)
    assert (same["p"] == 1).all() and (same["difference"] == 0).all()


@pytest.mark.parametrize("call", [error_kinds, error_gains, bootstrap_intervals])
@pytest.mark.parametrize("change, message", [(dict(score=np.nan), "has no score"), (dict(y1=np.nan), "leave all empty"),
                                             (dict(classname="cow"), "is not one of AC, HC"), (dict(name="z"), "image 'z'")])
def test_bad_predictions_are_refused(call, change, message):
    truth, predictions = tables(0)
    with pytest.raises(ValueError, match=message):
        call(truth, predictions.assign(**change), CLASSES)


@pytest.mark.parametrize("predictions", [None, pd.DataFrame()])
def test_no_predictions(predictions):
    truth, _ = tables(0)
    objects = truth["x1"].notna().sum()
    assert error_gains(truth, predictions, CLASSES)["count"].tolist() == [0, 0, 0, 0, 0, objects, 0, objects]
    matches = match_detections(truth, predictions, CLASSES)
    assert len(best_thresholds(precision_recall(matches))) == 0
    assert np.isnan(expected_calibration_error(reliability(matches)))
    assert bootstrap_intervals(truth, predictions, CLASSES, resamples=10).loc["AP"].tolist() == [0, 0, 0]
