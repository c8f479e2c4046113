"A run folder becomes a detector again: the run's own numbers, every kind of input, and the reports built on it."
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml

from frcnn_nbdev import reports
from frcnn_nbdev.runs import compare, folder, parameters, recipe, record
from frcnn_nbdev.data import DetectionData
from frcnn_nbdev.detector import Detector, ThreadedLoader
from frcnn_nbdev.formats import read_boxes
from frcnn_nbdev.iou import box_iou
from frcnn_nbdev.labels import boxes_table, read_image
from frcnn_nbdev.training import save_weights


@pytest.fixture(scope="module")
def detector(tiny_run) -> Detector:
    return Detector.load(tiny_run)


@pytest.fixture(scope="module")
def phantom(tiny_run) -> Path:
    "The data that the tiny run was trained on."
    return next((tiny_run.parent / "data").iterdir())


def numbers(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_the_test_split_gives_the_runs_own_numbers(detector, tiny_run, phantom):
    assert detector.evaluate(phantom) == numbers(tiny_run)["test"]
    assert detector.evaluate(phantom, "val") == numbers(tiny_run)["val"]
    kept = read_boxes(tiny_run / "predictions.csv", format="csv", resolve=False)
    found = detector.detect(detector.labelled(phantom))
    for column in found:
        assert found[column].equals(kept[column]), column


def test_all_ways_to_give_an_image_are_one(detector, phantom):
    folder = phantom / "FL" / "test" / "image"
    files = sorted(folder.glob("*.png"))
    whole = detector.predict(folder)
    assert sorted(set(whole["name"])) == [file.name for file in files]
    by_name = detector.predict({file.name: file for file in files})
    pd.testing.assert_frame_equal(whole, by_name)
    in_memory = detector.predict([read_image(file) for file in files])
    pd.testing.assert_frame_equal(whole.drop(columns="name"), in_memory.drop(columns="name"))
    # Another batch is rounded otherwise, which may decide between two detections that are nearly equal: most have a twin.
    found = {name: torch.tensor(rows[["x1", "y1", "x2", "y2"]].to_numpy()) for name, rows in whole.groupby("name")}
    for file in files:
        alone = torch.tensor(detector.predict(file)[["x1", "y1", "x2", "y2"]].to_numpy())
        apart = (alone[:, None] - found[file.name]).abs().amax(dim=2).amin(dim=1)      # from the nearest, the largest of four
        assert (apart < 1e-2).double().mean() > 0.8


def test_boxes_are_in_pixels_of_the_file(detector, phantom):
    image = read_image(next(phantom.glob("HC/test/image/*.png")))
    one = detector.predict(image)
    wide = detector.predict(cv2.resize(image, None, fx=3, fy=1, interpolation=cv2.INTER_NEAREST))
    # Both are squeezed to the same square up to resampling: the best box of one is among those of the other.
    corners = ["x1", "y1", "x2", "y2"]
    best, others = torch.tensor(one[corners].to_numpy())[:1], torch.tensor(wide[corners].to_numpy()) / torch.tensor([3, 1, 3, 1])
    assert box_iou(best, others).max() > 0.8
    assert (one[["x1", "y1"]] >= 0).all().all() and one["x2"].max() <= image.shape[1] and one["y2"].max() <= image.shape[0]


def test_min_score_leaves_an_empty_row(detector, phantom):
    files = sorted(phantom.glob("HC/test/image/*.png"))
    none = detector.predict(files, min_score=1.01)
    assert len(none) == len(files) and none["x1"].isna().all() and (none["classname"] == "").all()
    assert len(detector.predict([])) == 0


@pytest.mark.parametrize("given, sentence", [
    ("no/such.png", "there is no such image"), (np.zeros((4, 4), np.float32), "float32 of shape"),
    ([np.zeros((4, 4, 4), np.uint8)], "give a file, or a uint8 array"), (7, "image 0 is a int"),
])
def test_what_is_no_image_is_refused(detector, given, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        detector.predict(given)


def test_a_broken_file_among_good_ones_is_named(detector, phantom, tmp_path):
    for number, file in enumerate(sorted(phantom.glob("HC/train/image/*.png"))):
        shutil.copy(file, tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match="1.png"):
        detector.predict(tmp_path)


def test_only_a_few_batches_are_read_ahead():
    class Counting(torch.utils.data.Dataset):
        read = 0

        def __len__(self):
            return 100

        def __getitem__(self, index):
            self.read += 1
            return torch.zeros(1), {"image_id": index}

    dataset, seen = Counting(), []
    for number, (_, targets) in enumerate(ThreadedLoader(dataset, 3, ahead=2)):
        seen += [target["image_id"] for target in targets]
        assert dataset.read <= 3 * (number + 3)
    assert seen == list(range(100))


def test_runs_that_are_not_whole(tiny_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    (copy / "model.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no model.json"):
        Detector.load(copy)
    shutil.copy(tiny_run / "model.json", copy)
    (copy / "model.safetensors").write_bytes(b"pickle")
    with pytest.raises(ValueError, match="does not hold this run's weights"):
        Detector.load(copy)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        Detector.load(tmp_path / "nowhere")


def test_frozen_normalisation_of_pretrained_weights_is_restored(tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    defaults = {p.name: p.default for p in parameters.declared_parameters("train").values() if p.name != "out"}
    params = defaults | {"backbone": "resnet18", "weights": str(tmp_path / "resnet18.pth"), "image_size": 64}
    data = DetectionData(tmp_path, boxes_table([]), ("a", "b"), pd.DataFrame(), "none")
    sizes = np.array([[10.0, 20.0], [30.0, 30.0]])
    model = recipe.report_model(record.Run("train", tmp_path, params), data, sizes).eval()
    (tmp_path / "resnet18.pth").unlink()                   # loading asks for no pretrained weights
    save_weights(model, tmp_path / "model.safetensors")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    folder.write_json({"classes": ["a", "b"], "anchors": sizes.tolist()}, tmp_path / "model.json")
    folder.write_json({}, tmp_path / "metrics.json")
    loaded = Detector.load(tmp_path)
    assert loaded.threshold is None and loaded.fingerprint is None      # nothing chose one
    image = torch.rand(3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model([image]), model([image]), rtol=0, atol=0)


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_detector_of_torchvision_is_loaded_too(pretrained, tmp_path):
    torch.manual_seed(0)
    if pretrained:      # its normalisation is frozen: the file of the run has no counters of batches
        torch.save(torchvision.models.mobilenet_v3_large(weights=None).state_dict(), tmp_path / "mobilenet.pth")
    defaults = {p.name: p.default for p in parameters.declared_parameters("train").values() if p.name != "out"}
    params = defaults | {"model": "fasterrcnn_mobilenet_v3_large_320_fpn", "image_size": 96, "batch_size": 2,
                         "weights": str(tmp_path / "mobilenet.pth") if pretrained else ""}
    data = DetectionData(tmp_path, boxes_table([]), ("a", "b"), pd.DataFrame(), "none")
    model = recipe.report_model(record.Run("train", tmp_path, params), data, np.array([[10.0, 20.0]])).eval()
    (tmp_path / "mobilenet.pth").unlink(missing_ok=True)
    save_weights(model, tmp_path / "model.safetensors")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    folder.write_json({"classes": ["a", "b"], "anchors": [[10.0, 20.0]]}, tmp_path / "model.json")
    folder.write_json({}, tmp_path / "metrics.json")
    loaded = Detector.load(tmp_path)
    assert type(loaded.model) is torchvision.models.detection.FasterRCNN
    image = torch.rand(3, 96, 96)
    with torch.no_grad():
        theirs, ours = model([image])[0], loaded.model([image])[0]
    for name in ("boxes", "labels", "scores"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    # An image of twice the size is made 96 pixels square by the data set, not 320 by torchvision's transform.
    seen = []
    loaded.model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    table = loaded.predict(np.full((192, 192, 3), 90, np.uint8))
    assert seen == [(1, 3, 96, 96)] and set(table["classname"]) <= {"a", "b", ""}


def test_the_evaluation_report_on_the_runs_own_data(tiny_run, tmp_path):
    run = reports.run_report("evaluate", {"checkpoint": str(tiny_run), "resamples": 1000}, tiny_run.parent / "evaluate", progress=False)
    ours, theirs = numbers(run), numbers(tiny_run)
    assert ours["test"] == theirs["test"] and ours["analysis"] == theirs["analysis"]
    figures = {path.stem for path in (run / "figures").iterdir()}
    assert figures >= {"precision_recall", "confusion", "confusion_objects", "error_kinds", "calibration", "bland_altman", "worst"}
    assert {"truth.csv", "predictions.csv", "report.html"} <= {path.name for path in run.iterdir()}


def test_an_evaluation_on_another_folder_keeps_the_runs_threshold(detector, tiny_run, phantom, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(phantom, other)
    for path in other.glob("AC/**/*.png"):
        path.unlink()
    assert detector.threshold == numbers(tiny_run)["analysis"]["threshold"]
    assert detector.labelled(other).split == "all" and not detector.learned_from(detector.labelled(other).data)
    assert set(detector.labelled(other, "test").table["split"]) == {"test"}      # the folder names it
    found = detector.evaluate(other)
    assert found["images"] == len(list(other.glob("*/*/image/*.png")))
    assert found["per_class"]["AC"] is None and found["per_class"]["HC"] is not None
    for path in list(other.glob("FL/*/*/*.png")):
        (other / "XX" / Path(*path.relative_to(other).parts[1:-1])).mkdir(parents=True, exist_ok=True)
        path.rename(other / "XX" / Path(*path.relative_to(other).parts[1:]))
    with pytest.raises(ValueError, match="XX"):
        detector.evaluate(other)


def test_the_prediction_report_on_a_video(tiny_run, phantom, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 160))
    for file in sorted(phantom.glob("*/test/image/*.png"))[:5]:
        writer.write(cv2.resize(cv2.imread(str(file)), (320, 160)))
    writer.release()
    run = reports.run_report("predict", {"checkpoint": str(tiny_run), "data": str(tmp_path / "clip.avi"), "every": 2, "min_score": 0.06},
                             tmp_path / "run", progress=False)
    assert numbers(run)["images"] == 3 and (run / "video.mp4").stat().st_size > 0
    record = json.loads((run / "coco" / "annotations" / "instances.json").read_text())
    assert [one["file_name"] for one in record["images"]] == ["frame 000000", "frame 000002", "frame 000004"]
    assert {(one["width"], one["height"]) for one in record["images"]} == {(320, 160)}
    table = pd.read_csv(run / "predictions.csv")
    assert list(table) == ["name", "x1", "x2", "y1", "y2", "classname", "score", "uncertain"] and (table["score"].dropna() >= 0.06).all()
    assert not table["uncertain"].any()                       # a score that was asked for is a decision
    assert len(record["annotations"]) == table["x1"].notna().sum()


def test_an_image_without_a_certain_detection_shows_its_best_box_as_uncertain(tiny_run, phantom, tmp_path, capfd):
    other = tmp_path / "run-of-few"
    shutil.copytree(tiny_run, other)
    metrics = numbers(other)
    metrics["analysis"] |= {"threshold": 0.999, "threshold_choice": dict(images=36, objects=36, f1=0.9, best_score=0.9995, best_f1=0.92)}
    folder.write_json(metrics, other / "metrics.json")
    run = reports.run_report("predict", {"checkpoint": str(other), "data": str(phantom / "HC" / "test" / "image")}, tmp_path / "run")
    table = pd.read_csv(run / "predictions.csv")
    assert table["uncertain"].all() and not table["name"].duplicated().any() and table["x1"].notna().all()
    assert (numbers(run)["uncertain"], numbers(run)["min_score"]) == (len(table), 0.999)
    page, said = (run / "report.html").read_text(), capfd.readouterr().out
    for text in (page, said):
        assert f"0 of {len(table)} images have a detection; {len(table)} have an uncertain one only" in text
        assert "on 36 validation images with 36 objects" in text


def test_a_run_whose_validation_chose_nothing_has_no_threshold(tiny_run, phantom, tmp_path):
    other = tmp_path / "blind"
    shutil.copytree(tiny_run, other)
    metrics = numbers(other)
    metrics["analysis"] |= {"threshold": None, "threshold_choice": dict(images=6, objects=6, f1=None, best_score=None, best_f1=None)}
    folder.write_json(metrics, other / "metrics.json")
    assert Detector.load(other).threshold is None
    run = reports.run_report("predict", {"checkpoint": str(other), "data": str(phantom / "HC" / "test" / "image")}, tmp_path / "run", progress=False)
    assert numbers(run)["min_score"] is None and pd.read_csv(run / "predictions.csv")["uncertain"].all()
    assert "none of the detections on the 6 validation images is right" in (run / "report.html").read_text()


def test_another_folder_is_judged_whole_and_with_the_factors_of_the_run(tiny_run, phantom, tmp_path):
    factors = numbers(tiny_run)["analysis"]["size_factors"]
    assert set(factors) == {"AC", "FL", "HC", "HUM"}
    table = read_boxes(phantom)
    other = tmp_path / "other"                      # the same images in a folder that names no splits
    other.mkdir()
    for name in table["name"]:
        shutil.copy(phantom / name, other / name.replace("/", "-"))
    columns = ["name", "x1", "x2", "y1", "y2", "classname", "pixel_size", "size_mm"]
    table.assign(name=table["name"].str.replace("/", "-"))[columns].to_csv(other / "boxes.csv", index=False)
    run = reports.run_report("evaluate", {"checkpoint": str(tiny_run), "data": str(other), "resamples": 20}, tmp_path / "run", progress=False)
    found = numbers(run)
    assert found["all"]["images"] == len(table) and found["analysis"]["size_factors"] == factors
    assert found["analysis"]["threshold"] == numbers(tiny_run)["analysis"]["threshold"]
    assert set(pd.read_csv(run / "truth.csv", keep_default_na=False).get("split", [""])) == {""}
    page = (run / "report.html").read_text()
    assert f"all {len(table)} images of the folder, which names no splits; none were drawn" in page and f"HC × {factors['HC']:.3f}" in page
    with pytest.raises(reports.ReportError, match="names no splits; leave `split` out"):
        reports.run_report("evaluate", {"checkpoint": str(tiny_run), "data": str(other), "split": "test"}, tmp_path / "split", progress=False)


def test_the_comparison_report(tiny_run, tmp_path):
    better = tmp_path / "better"
    shutil.copytree(tiny_run, better)
    truth = read_boxes(better / "truth.csv", format="csv", resolve=False)
    truth[["name", "x1", "x2", "y1", "y2", "classname"]].assign(score=0.9).to_csv(better / "predictions.csv", index=False)
    run = reports.run_report("compare", {"runs": f"{tiny_run},{better}", "resamples": 100}, tmp_path / "run", progress=False)
    found = numbers(run)
    assert list(found["runs"]) == ["better", "tiny"]          # JSON's keys are sorted
    assert found["runs"]["better"]["AP"]["value"] == 1 and found["runs"]["tiny"]["AP"]["value"] == round(numbers(tiny_run)["test"]["AP"], 6)
    difference = found["differences"]["better"]["AP"]
    assert difference["difference"] == pytest.approx(1 - numbers(tiny_run)["test"]["AP"], abs=1e-5) and difference["low"] > 0
    assert {path.stem for path in (run / "figures").iterdir()} >= {"intervals", "differences", "precision_recall_50", "confusion", "confusion_objects"}
    with pytest.raises(ValueError, match="there is one run"):
        compare.read_runs(str(tiny_run))


def test_heads_of_hc18_have_their_true_circumference(real):
    if not (real / "hc18").is_dir():
        pytest.skip(f"no HC18 in {real}; set FRCNN_REAL to its parent")
    from frcnn_nbdev.data import load_boxes
    from frcnn_nbdev.runs.analysis import analyse, training_factors
    table = load_boxes(real / "hc18").table
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    perfect = test[["name", "x1", "x2", "y1", "y2", "classname"]].assign(score=1.0)
    found = analyse(test, perfect, ["HC"], factors=training_factors(train), resamples=10).numbers()
    assert round(found["size_factors"]["HC"], 3) == 0.989 and round(found["sizes"]["HC"]["mean_percent"], 1) == 0.2
