"Checked data sets and batches: what load_boxes refuses or reports, and what real folders give."
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from frcnn_nbdev.batches import BoxesDataset, make_loader, predictions_table, train_transforms
from frcnn_nbdev.data import box_statistics, check_boxes, load_boxes, split_boxes
from frcnn_nbdev.labels import boxes_table, read_boxes, write_boxes_csv

REAL = Path(os.environ.get("FRCNN_REAL", Path(__file__).resolve().parents[2] / "shared" / "real"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real data on this machine")


@pytest.fixture
def folder(tmp_path):
    "Twelve images of four exams, one box each, with boxes.csv."
    random, records = np.random.default_rng(0), []
    for number in range(12):
        name = f"20200101_E{number // 3:07d}_I{number:07d}.png"
        cv2.imwrite(str(tmp_path / name), random.integers(0, 255, (48, 96, 3), np.uint8))
        records.append({"name": name, "x1": 10.25, "x2": 50, "y1": 8, "y2": 40, "classname": ["AC", "FL"][number % 2]})
    write_boxes_csv(boxes_table(records).drop(columns=["group"]), tmp_path / "boxes.csv")
    return tmp_path


def change(folder, row, **cells):
    table = read_boxes(folder)
    for column, value in cells.items():
        table.loc[row, column] = value
    write_boxes_csv(table, folder / "boxes.csv")
    return table.loc[row, "name"]


BAD = [
    ("outside", {"x2": 98.0}, "lies outside the image of 96×48 pixels"),
    ("outside above", {"y1": -3.0}, "lies outside"),
    ("wrong order", {"x1": 60.0}, "corners in the wrong order"),
    ("half a box", {"x1": np.nan}, "a coordinate is missing"),
    ("no class", {"classname": ""}, "the class is missing"),
    ("unknown class", {"classname": "leg"}, "unknown class 'leg'; use one of AC, FL"),
]


@pytest.mark.parametrize("cells, sentence", [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_row_stops_loading_in_one_sentence(folder, cells, sentence):
    name = change(folder, 4, **cells)
    with pytest.raises(ValueError) as error:
        load_boxes(folder, classes=["AC", "FL"])
    assert str(error.value).startswith(f"{name}, row 5: ") and sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spoil, sentence", [
    (lambda path: path.write_bytes(b""), "the file is empty"),
    (lambda path: path.write_bytes(path.read_bytes()[:500]), "cut off"),
    (lambda path: path.write_text("text"), "not readable as an image")])
def test_an_unreadable_image_stops_loading(folder, spoil, sentence):
    path = sorted(folder.glob("*.png"))[2]
    spoil(path)
    with pytest.raises(ValueError, match=rf"^{path.name}, row 3: .*{sentence}"):
        load_boxes(folder)


def test_further_errors_are_counted(folder):
    change(folder, 4, x2=200.0)
    change(folder, 7, y2=200.0)
    with pytest.raises(ValueError, match="row 5: .*1 more errors"):
        load_boxes(folder)


def test_a_box_of_no_area_is_reported_and_not_fatal(folder):
    name = change(folder, 4, x2=10.25)
    data = load_boxes(folder)
    assert data.findings[["severity", "name", "row"]].iloc[0].tolist() == ["dropped", name, 4]
    assert len(data.table) == 11 and name not in set(data.table["name"])
    assert len(read_boxes(folder)) == len(data.table) + (data.findings["severity"] == "dropped").sum()


def test_nothing_labelled(folder):
    table = read_boxes(folder)
    table[["x1", "x2", "y1", "y2"]], table["classname"] = np.nan, ""
    write_boxes_csv(table, folder / "boxes.csv")
    with pytest.raises(ValueError, match="no image has a box"):
        load_boxes(folder)


def test_reader_findings_reach_the_check(folder):
    table = read_boxes(folder)
    table.attrs["findings"] = [{"severity": "warning", "name": "x", "row": -1, "problem": "p", "fix": "f"}]
    _, findings = check_boxes(table, folder)
    assert findings.to_dict("records") == table.attrs["findings"]


def test_the_same_seed_gives_the_same_batches(folder):
    def batches(seed):
        torch.manual_seed(seed)
        data = load_boxes(folder, seed=seed)
        dataset = BoxesDataset(data, "train", image_size=32, transforms=train_transforms())
        return [(image, target["boxes"]) for _ in range(2) for images, targets in make_loader(dataset, 2, shuffle=True, seed=seed)
                for image, target in zip(images, targets, strict=True)]

    first, again = batches(1), batches(1)
    for (image, boxes), (image_again, boxes_again) in zip(first, again, strict=True):
        torch.testing.assert_close(image, image_again, rtol=0, atol=0)
        torch.testing.assert_close(boxes, boxes_again, rtol=0, atol=0)
    assert not all(torch.equal(one[0], two[0]) for one, two in zip(first, batches(2), strict=False))


def test_workers_give_what_the_main_process_gives(folder):
    dataset = BoxesDataset(load_boxes(folder), "all", image_size=32)
    alone = [target["boxes"] for _, targets in make_loader(dataset, 4, shuffle=True) for target in targets]
    helped = [target["boxes"] for _, targets in make_loader(dataset, 4, shuffle=True, workers=1) for target in targets]
    torch.testing.assert_close(torch.cat(alone), torch.cat(helped), rtol=0, atol=0)


def test_predictions_come_back_in_original_pixels(folder):
    data = load_boxes(folder)
    for resize, size in [("square", 32), ("longest", 64), ("native", None)]:
        dataset = BoxesDataset(data, "all", image_size=size, resize=resize)
        found = [{"boxes": target["boxes"], "labels": target["labels"], "scores": torch.ones(1)} for _, target in dataset]
        table = predictions_table(dataset, found, data.classes)
        np.testing.assert_allclose(table[["x1", "x2", "y1", "y2"]], [[10.25, 50, 8, 40]] * 12, atol=1e-4)
        assert table["classname"].tolist() == ["AC", "FL"] * 6


@needs_real
def test_hc18_val_is_taken_from_train_by_examination():
    data = load_boxes(REAL / "hc18")
    assert data.classes == ("HC",) and len(data.findings) == 0
    assert data.table.groupby("group")["split"].nunique().max() == 1
    counts = data.table["split"].value_counts()
    assert counts["test"] == 60 and counts["train"] + counts["val"] == 240 and 30 <= counts["val"] <= 42
    image, _ = BoxesDataset(data, "val", image_size=192, resize="longest")[0]
    assert image.shape == (3, 130, 192)


@needs_real
def test_bccd_reports_its_two_boxes_of_no_area():
    data = load_boxes(REAL / "bccd")
    assert data.findings[["severity", "name"]].to_numpy().tolist() == [
        ["dropped", "JPEGImages/BloodImage_00338.jpg"], ["dropped", "JPEGImages/BloodImage_00343.jpg"]]
    assert len(data.table) == 4886 and data.classes == ("Platelets", "RBC", "WBC")
    assert data.table.drop_duplicates("name")["split"].value_counts().to_dict() == {"train": 205, "val": 87, "test": 72}
    assert box_statistics(data.table)["boxes"].sum() == 4886
    assert split_boxes(data.table, seed=9)["split"].equals(data.table["split"])
