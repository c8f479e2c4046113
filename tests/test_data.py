"Checked data sets: what load_boxes refuses or reports, fixes, splits, the command, and what real folders give."
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from frcnn_nbdev.batches import BoxesDataset
from frcnn_nbdev.data import (box_statistics, check_boxes, fix_boxes, frcnn_boxes, kfold_boxes, load_boxes, split_boxes)
from frcnn_nbdev.formats import read_boxes
from frcnn_nbdev.labels import boxes_table, write_boxes_csv

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
    assert findings.to_dict("records") == [table.attrs["findings"][0] | {"kind": "reader", "value": ""}]


def test_what_goes_in_comes_out_or_is_counted(folder):
    table = read_boxes(folder)
    table.loc[0, ["x1", "x2"]] = [50.0, 10.25]
    table.loc[1, "x2"] = table.loc[1, "x1"]
    table.loc[2, "x2"] = 400.0
    table.loc[3, ["x1", "x2"]] = [300.0, 400.0]
    table.loc[4, "classname"] = " fl"
    table = boxes_table(np_repeat(table, 7))
    before = table.copy()
    usable, findings = check_boxes(table, folder)
    taken = findings[findings["severity"].isin(["error", "dropped"]) & (findings["row"] >= 0)]
    assert len(table) == len(usable) + len(taken) and taken["row"].tolist() == [0, 1, 2, 3]
    fixed, report = fix_boxes(table, findings)
    assert len(table) == len(fixed) + report["removed"].sum() and report["removed"].sum() == 3
    assert fixed[["x1", "x2"]].iloc[0].tolist() == [10.25, 50.0] and fixed["x2"].max() == 96.0
    assert set(fixed["classname"]) == {"AC", "FL"}
    assert table.equals(before), "the source was changed"
    assert not (check_boxes(fixed, folder)[1]["severity"] == "error").any()


def np_repeat(table, row):
    "The table with one row twice."
    return table.loc[[*table.index, row]].reset_index(drop=True)


def test_stated_sizes_that_lie(folder):
    table = read_boxes(folder).assign(width=96.0, height=48.0)
    table.loc[2, ["width", "height"]] = [0.0, 0.0]
    table.loc[5, ["width", "height"]] = [48.0, 96.0]
    usable, findings = check_boxes(table, folder)
    assert findings[["kind", "name"]].to_numpy().tolist() == [["wrong_size", table["name"][2]], ["wrong_size", table["name"][5]]]
    assert (usable[["width", "height"]] == [96, 48]).all().all() and len(usable) == 12
    fixed, _ = fix_boxes(table, findings)
    assert (fixed[["width", "height"]] == [96, 48]).all().all()


def test_the_same_picture_in_two_splits_stops_loading(folder):
    table = read_boxes(folder)
    table["split"] = ["train"] * 9 + ["test"] * 3
    write_boxes_csv(table, folder / "boxes.csv")
    (folder / table["name"][0]).write_bytes((folder / table["name"][11]).read_bytes())
    with pytest.raises(ValueError, match=f"^{table['name'][0]}: the image is the same file as {table['name'][11]}, with other boxes: train and test"):
        load_boxes(folder)
    assert frcnn_boxes([str(folder), "--fix", "-o", str(folder / "fixed.csv")]) == 0
    fixed = read_boxes(folder / "fixed.csv")
    assert len(fixed) == 11 and table["name"][0] not in set(fixed["name"])     # the copy in train is given up


def test_truncated_pictures_of_every_kind_are_errors(folder):
    names = read_boxes(folder)["name"].tolist()
    picture = cv2.imread(str(folder / names[0]))
    for name, suffix in zip(names, (".jpg", ".png"), strict=False):
        data = cv2.imencode(suffix, picture)[1].tobytes()
        (folder / name).write_bytes(data[: len(data) * 2 // 3])
    findings = check_boxes(read_boxes(folder), folder)[1]
    assert findings.loc[findings["kind"] == "unreadable", "name"].tolist() == names[:2]


@pytest.mark.parametrize("change, kind", [
    (lambda data: cv2.imencode(".jpg", data, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes(), "near_duplicate"),
    (lambda data: cv2.imencode(".png", cv2.resize(data, None, fx=2, fy=2))[1].tobytes(), "near_duplicate"),
    (lambda data: cv2.imencode(".png", (data * 0.8).astype(np.uint8))[1].tobytes(), "near_duplicate"),
    (lambda data: cv2.imencode(".png", data[:, ::-1])[1].tobytes(), None)])
def test_copies_that_were_saved_again(folder, change, kind):
    rng, names = np.random.default_rng(1), read_boxes(folder)["name"].tolist()
    smooth = cv2.resize(rng.integers(0, 255, (9, 13, 3), np.uint8), (96, 48), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / names[3]), smooth)
    (folder / names[8]).write_bytes(change(smooth))
    findings = check_boxes(read_boxes(folder), folder)[1]
    pairs = findings[findings["kind"].str.contains("duplicate")]
    assert pairs[["kind", "name", "value"]].to_numpy().tolist() == ([[kind, names[8], names[3]]] if kind else [])


def test_a_large_table_is_checked_without_opening_images():
    rows, rng = 100_000, np.random.default_rng(0)
    table = boxes_table({"name": [f"{n // 4}.png" for n in range(rows)], "x1": rng.uniform(0, 300, rows), "y1": 5.0, "y2": 90.0,
                         "classname": rng.choice(["A", "B"], rows), "width": 640, "height": 480}).assign()
    table["x2"] = table["x1"] + 80
    table.loc[::1000, "x2"] = 900.0
    usable, findings = check_boxes(table, "no such folder", open_images=False)
    assert findings["kind"].value_counts().to_dict() == {"outside": 100} and len(usable) == rows - 100


def test_a_split_that_was_drawn_is_kept_when_images_are_added(folder):
    first = load_boxes(folder, seed=1)
    for number in range(12, 30):
        name = f"20200101_E{number // 3:07d}_I{number:07d}.png"
        cv2.imwrite(str(folder / name), np.random.default_rng(number).integers(0, 255, (48, 96, 3), np.uint8))
    table = pd.concat([read_boxes(folder).drop(columns="group")] + [
        pd.DataFrame([{"name": f"20200101_E{n // 3:07d}_I{n:07d}.png", "x1": 5, "x2": 50, "y1": 8, "y2": 40, "classname": "AC"}])
        for n in range(12, 30)])
    write_boxes_csv(table, folder / "boxes.csv")
    again = load_boxes(folder, previous=first.table, seed=8)
    old = again.table.set_index("name")["split"].loc[first.table["name"]]
    assert old.tolist() == first.table["split"].tolist()
    assert again.table.groupby("group")["split"].nunique().max() == 1 and set(again.table["split"]) == {"train", "val", "test"}


def test_folds_by_exam(folder):
    table = load_boxes(folder).table
    fold = kfold_boxes(table, 4)
    assert sorted(set(fold)) == [0, 1, 2, 3] and pd.Series(fold).groupby(table["group"]).nunique().max() == 1
    with pytest.raises(ValueError, match="4 groups cannot make 5 folds"):
        kfold_boxes(table, 5)


@pytest.mark.parametrize("words, code, sentence", [
    ([], 2, "give -o OUT, --check or both"),
    (["--fix"], 2, "--fix needs -o OUT"),
    (["--check", "--to", "coco"], 2, "--to needs -o OUT"),
    (["-o", "new.csv", "--one-based"], 1, "--one-based: it has no meaning for the format csv"),
    (["-o", "no/such/new.csv"], 1, "does not exist"),
    (["--check"], 1, "")])
def test_the_command_says_what_is_wrong(folder, monkeypatch, capsys, words, code, sentence):
    change(folder, 4, x2=400.0)
    monkeypatch.chdir(folder)
    assert frcnn_boxes([".", *words]) == code
    out, err = capsys.readouterr()
    assert sentence in err and len(err.splitlines()) == (1 if sentence else 0)
    if words == ["--check"]:
        assert "error    20200101_E0000001_I0000004.png, row 5: box 10.25 8 400 40" in out and "1 errors" in out


def test_check_of_a_good_folder_ends_well(folder, capsys):
    assert frcnn_boxes([str(folder), "--check", "-o", str(folder / "new.csv")]) == 0
    assert "12 images, 12 boxes, 2 classes: 0 errors" in capsys.readouterr().out
    assert len(read_boxes(folder / "new.csv")) == 12


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
def test_bccd_reports_what_04_data_says():
    data = load_boxes(REAL / "bccd")
    stem = "JPEGImages/BloodImage_"
    assert data.findings[["severity", "kind", "name", "row"]].to_numpy().tolist() == [
        ["dropped", "no_area", f"{stem}00338.jpg", 3950], ["dropped", "no_area", f"{stem}00343.jpg", 4004],
        ["warning", "tiny", f"{stem}00113.jpg", 1685], ["warning", "huge", f"{stem}00133.jpg", 1822],
        ["warning", "huge", f"{stem}00135.jpg", 1834], ["warning", "near_duplicate_in_splits", f"{stem}00038.jpg", -1]]
    assert data.findings["value"].iloc[-1] == f"{stem}00037.jpg"
    assert len(data.read) == 4888 and data.read["name"].nunique() == 364
    assert len(data.table) == 4886 and data.classes == ("Platelets", "RBC", "WBC")
    assert data.table.drop_duplicates("name")["split"].value_counts().to_dict() == {"train": 205, "val": 87, "test": 72}
    assert box_statistics(data.table)["boxes"].sum() == 4886
    assert split_boxes(data.table, seed=9)["split"].equals(data.table["split"])
