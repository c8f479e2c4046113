"""Evaluation against COCO's reference numbers, and the inputs a report can meet."""
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from frcnn_nbdev.evaluation import (COCO_THRESHOLDS, SIZES, average_precision, coco_metrics,
                                    coco_metrics_from_coco, evaluate, match_detections, top_detections)
from frcnn_nbdev.iou import box_iou

REAL = Path(os.environ.get("FRCNN_REAL", Path(__file__).resolve().parents[2] / "shared" / "real"))
GOLDEN = REAL / "golden_ap"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference data in {GOLDEN}; set FRCNN_REAL to its parent")
NAMES = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "AP_small": "APs", "AP_medium": "APm", "AP_large": "APl",
         "AR_max1": "AR1", "AR_max10": "AR10", "AR_max100": "AR100",
         "AR_small": "ARs", "AR_medium": "ARm", "AR_large": "ARl"}
NAN = float("nan")


def read_golden():
    expected = json.loads((GOLDEN / "expected.json").read_text())
    truth = json.loads((GOLDEN / expected["ground_truth"]["file"]).read_text())
    detections = json.loads((GOLDEN / expected["detections"]["file"]).read_text())
    return expected["pycocotools"], truth, detections


def to_table(boxes, names, classes):
    rows = [(names[b["image_id"]], b["bbox"][0], b["bbox"][0] + b["bbox"][2], b["bbox"][1], b["bbox"][1] + b["bbox"][3],
             classes[b["category_id"]], b.get("score", NAN)) for b in boxes]
    return pd.DataFrame(rows, columns=["name", "x1", "x2", "y1", "y2", "classname", "score"])


@golden
def test_the_twelve_numbers_of_the_reference():
    expected, truth, detections = read_golden()
    before = json.dumps([truth, detections])
    metrics = coco_metrics_from_coco(truth, detections)
    for theirs, ours in NAMES.items():
        assert metrics[ours] == pytest.approx(expected[theirs], abs=1e-6), ours
    published = json.loads((GOLDEN / "expected.json").read_text())["published"]
    for theirs, ours in NAMES.items():
        assert round(metrics[ours], 3) == published[theirs], ours
    assert json.dumps([truth, detections]) == before, "the arguments were changed"
    assert len(metrics["per_class"]) == 80
    # 70 of the 80 categories have annotations, some of them only crowds: their AP is undefined, not 0.
    defined = [ap for ap in metrics["per_class"].values() if ap is not None]
    assert np.mean(defined) == pytest.approx(expected["AP"], abs=1e-6)


@golden
def test_tables_give_the_same_as_coco_files():
    _, truth, detections = read_golden()
    truth["annotations"] = [dict(a, area=a["bbox"][2] * a["bbox"][3]) for a in truth["annotations"] if not a["iscrowd"]]
    names = {image["id"]: f"{image['id']:012d}.jpg" for image in truth["images"]}
    classes = {category["id"]: category["name"] for category in truth["categories"]}
    objects = to_table(truth["annotations"], names, classes).drop(columns="score")
    empty = [(name, NAN, NAN, NAN, NAN, "") for name in names.values() if name not in set(objects["name"])]
    table = pd.concat([objects, pd.DataFrame(empty, columns=objects.columns)]) if empty else objects
    ours = coco_metrics(table, to_table(detections, names, classes), list(classes.values()))
    theirs = coco_metrics_from_coco(truth, detections)
    for name in NAMES.values():
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6), name


def golden_tables():
    "The reference as tables, with its crowds and the areas of its outlines."
    expected, truth, detections = read_golden()
    names = {image["id"]: f"{image['id']:012d}.jpg" for image in truth["images"]}
    classes = {category["id"]: category["name"] for category in truth["categories"]}
    objects = to_table(truth["annotations"], names, classes).drop(columns="score")
    for column in ("iscrowd", "area"):
        objects[column] = [annotation[column] for annotation in truth["annotations"]]
    empty = pd.DataFrame({"name": [name for name in names.values() if name not in set(objects["name"])], "classname": ""})
    return expected, pd.concat([objects, empty]), to_table(detections, names, classes), list(classes.values())


@golden
def test_tables_with_crowds_and_areas_give_the_twelve_numbers():
    expected, truth, predictions, classes = golden_tables()
    metrics = coco_metrics(truth, predictions, classes)
    for theirs, ours in NAMES.items():
        assert metrics[ours] == pytest.approx(expected[theirs], abs=1e-6), ours


@golden
def test_our_average_precision_is_the_published_one():
    expected, truth, predictions, classes = golden_tables()
    for name, size in [("AP", "all"), ("AP_small", "small"), ("AP_medium", "medium"), ("AP_large", "large")]:
        ap = average_precision(match_detections(truth, predictions, classes, area=SIZES[size]))
        assert np.nanmean(ap) == pytest.approx(expected[name], abs=1e-6), name
    ap = average_precision(match_detections(truth, predictions, classes))
    for name, threshold in [("AP50", 0), ("AP75", 5)]:
        assert np.nanmean(ap[:, threshold]) == pytest.approx(expected[name], abs=1e-6), name


def random_tables(seed, classes):
    "Small whole-number boxes and few scores: full of equal IoUs, IoUs on a threshold and equal scores."
    rng = np.random.default_rng(seed)
    names = [f"{number}" for number in range(rng.integers(1, 8))]

    def table(rows):
        corner, size = rng.integers(0, 12, (rows, 2)), rng.integers(1, 8, (rows, 2)) * rng.choice([1, 12, 30], (rows, 1))
        return pd.DataFrame({"name": rng.choice(names, rows), "x1": corner[:, 0], "x2": corner[:, 0] + size[:, 0],
                             "y1": corner[:, 1], "y2": corner[:, 1] + size[:, 1], "classname": rng.choice(classes, rows)})

    truth, predictions = table(rng.integers(0, 30)), table(rng.integers(0, 60))
    truth["iscrowd"] = rng.choice([0, 0, 0, 0, 0, 1], len(truth))
    truth["area"] = (truth["x2"] - truth["x1"]) * (truth["y2"] - truth["y1"]) * rng.choice([1, 0.5], len(truth))
    predictions["score"] = rng.integers(0, 5, len(predictions)) / 5
    return pd.concat([truth, pd.DataFrame({"name": names, "classname": ""})]), predictions


@pytest.mark.parametrize("seed", range(40))
def test_ours_and_the_library_agree_on_ties(seed):
    classes, limit = ["a", "b", "c"], [3, 100][seed % 2]
    truth, predictions = random_tables(seed, classes)
    theirs = coco_metrics(truth, predictions, classes, max_detections=limit)
    for name, size in [("AP", "all"), ("APs", "small"), ("APm", "medium"), ("APl", "large")]:
        ap = average_precision(match_detections(truth, predictions, classes, area=SIZES[size], max_detections=limit))
        defined = ap[~np.isnan(ap[:, 0])]
        assert (len(defined) == 0) == (theirs[name] is None), name
        if len(defined):
            assert defined.mean() == pytest.approx(theirs[name], abs=1e-12), name
        if size == "all":
            each = [None if np.isnan(value) else pytest.approx(value, abs=1e-12) for value in ap.mean(axis=1)]
            assert list(theirs["per_class"].values()) == each


def test_two_objects_that_overlap_equally():
    # The first detection covers both heads with IoU 9/11 and takes the last; the second, IoU 8/12 with the last, goes empty.
    truth = pd.DataFrame({"name": "a", "x1": [0.0, 2.0], "x2": [10.0, 12.0], "y1": 0.0, "y2": 10.0, "classname": "HC"})
    predictions = pd.DataFrame({"name": "a", "x1": [1.0, 4.0], "x2": [11.0, 14.0], "y1": 0.0, "y2": 10.0, "classname": "HC",
                                "score": [0.9, 0.8]})
    assert match_detections(truth, predictions, ["HC"]).hit[0].tolist() == [1, 0]
    assert coco_metrics(truth, predictions, ["HC"])["AP50"] == pytest.approx(51 / 101)


@pytest.mark.parametrize("points, expected", [(101, (51 + 50 * 2 / 3) / 101), (11, (6 + 5 * 2 / 3) / 11), (None, 0.5 + 0.5 * 2 / 3)])
def test_the_curve_read_three_ways(points, expected):
    # right, wrong, right; two objects: precision 1 up to recall 1/2, then 2/3
    truth = pd.DataFrame({"name": ["a", "b"], "x1": 0.0, "x2": 10.0, "y1": 0.0, "y2": 10.0, "classname": "HC"})
    predictions = pd.concat([truth.iloc[[0]], truth.iloc[[0]], truth.iloc[[1]]]).assign(score=[0.9, 0.8, 0.7])
    ap = average_precision(match_detections(truth, predictions, ["HC"]), points=points)
    assert ap.shape == (1, len(COCO_THRESHOLDS)) and ap == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(10))
def test_top_detections_are_those_of_the_loop(seed):
    truth, predictions = random_tables(seed, ["a", "b"])
    truth = truth.drop(columns=["iscrowd", "area"])
    for row in top_detections(truth, predictions).itertuples():
        gt = truth[(truth["name"] == row.name) & truth["x1"].notna()]
        pred = predictions[predictions["name"] == row.name]
        if not len(pred):
            assert row.pred_class == "background" and (row.iou == 0 if len(gt) else np.isnan(row.iou))
            continue
        best = pred.loc[pred["score"].idxmax()]
        corners = ["x1", "y1", "x2", "y2"]
        assert (row.pred_class, row.score, row.pred_x1) == (best["classname"], best["score"], best["x1"])
        if not len(gt):
            assert row.gt_class == "background" and np.isnan(row.iou)
            continue
        iou = box_iou(torch.tensor([best[corners].tolist()]).double(), torch.tensor(gt[corners].to_numpy().copy()))[0]
        assert row.iou == pytest.approx(iou.max().item()) and row.gt_class == gt["classname"].iloc[iou.argmax().item()]


def test_a_crowd_is_no_object_of_one_image():
    truth = pd.DataFrame({"name": "a", "x1": [0.0, 50.0], "x2": [10.0, 90.0], "y1": 0.0, "y2": 10.0, "classname": "HC", "iscrowd": [0, 1]})
    found = truth.drop(columns="iscrowd").assign(score=[0.5, 0.9])
    metrics = evaluate(truth, found, ["HC"])
    assert metrics["AP"] == 1.0 and metrics["objects"] == 1


@pytest.fixture
def truth():
    rows = [("a.png", 10, 50, 10, 60, "AC"), ("b.png", 20, 120, 20, 120, "FL"), ("b.png", 0, 10, 0, 10, "AC"),
            ("c.png", NAN, NAN, NAN, NAN, "")]
    return pd.DataFrame(rows, columns=["name", "x1", "x2", "y1", "y2", "classname"])


def test_perfect_predictions(truth):
    metrics = evaluate(truth, truth.assign(score=1.0), ["AC", "FL"])   # c.png keeps its empty row
    assert [metrics[key] for key in ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]] == [1.0] * 7
    assert metrics["accuracy"] == 1.0 and metrics["mean_iou"] == 1.0
    assert metrics["images"] == 3 and metrics["objects"] == 3


@pytest.mark.parametrize("predictions", [None, pd.DataFrame(),
                                         pd.DataFrame(columns=["name", "x1", "x2", "y1", "y2", "classname", "score"])])
def test_no_predictions_at_all(truth, predictions):
    metrics = evaluate(truth, predictions, ["AC", "FL"])
    assert metrics["AP"] == metrics["AP50"] == metrics["mean_iou"] == 0.0
    assert metrics["accuracy"] == pytest.approx(1 / 3, abs=1e-6)       # only the image without object is right


def test_prediction_on_an_image_without_object(truth):
    false_alarm = pd.DataFrame([("c.png", 0, 9, 0, 9, "AC", 0.9)], columns=[*truth.columns, "score"])
    predictions = pd.concat([truth.dropna().assign(score=0.5), false_alarm])
    metrics = evaluate(truth, predictions, ["AC", "FL"])
    # AC: the first of three detections is wrong: precision 2/3 at every recall. FL is perfect.
    assert metrics["per_class"] == {"AC": 0.666667, "FL": 1.0}
    assert metrics["accuracy"] == pytest.approx(2 / 3, abs=1e-6)


def test_class_without_truth_is_none_and_does_not_count(truth):
    metrics = evaluate(truth, truth.assign(score=1.0), ["AC", "FL", "HC"])
    assert metrics["per_class"]["HC"] is None and metrics["AP"] == 1.0


@pytest.mark.parametrize("change, message", [
    (dict(classname="XX"), "the predictions of a.png have the class 'XX', which is not one of AC, FL."),
    (dict(name="z.png"), "the predictions name the image 'z.png', which the truth table does not have; "
                         "add a row for it (with an empty box if it has no object) or check the split."),
])
def test_wrong_predictions_are_refused_in_one_sentence(truth, change, message):
    with pytest.raises(ValueError) as error:
        evaluate(truth, truth.dropna().assign(score=1.0).assign(**change), ["AC", "FL"])
    assert str(error.value) == message


def test_metrics_are_json_and_the_same_for_any_row_order(truth):
    predictions = truth.dropna().assign(score=[0.9, 0.8, 0.7])
    metrics = evaluate(truth, predictions, ["AC", "FL"])
    text = json.dumps(metrics, allow_nan=False)
    assert json.dumps(evaluate(truth[::-1], predictions[::-1], ["AC", "FL"]), allow_nan=False) == text


def test_nothing_is_printed(truth, capfd, caplog):
    caplog.set_level("INFO")
    evaluate(truth, truth.assign(score=1.0), ["AC", "FL"])
    assert capfd.readouterr() == ("", "") and not caplog.records
