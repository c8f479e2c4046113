"""Evaluation against COCO's reference numbers, and the inputs a report can meet."""
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from frcnn_nbdev.evaluation import coco_metrics, coco_metrics_from_coco, evaluate

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
