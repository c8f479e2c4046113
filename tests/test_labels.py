"Labelled folders end to end: what is refused, in one sentence that names the file, and what real folders give."
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from frcnn_nbdev.data import frcnn_boxes
from frcnn_nbdev.formats import read_boxes
from frcnn_nbdev.labels import BOX_COLUMNS, boxes_table, read_boxes_csv, write_boxes_csv

REAL = Path(os.environ.get("FRCNN_REAL", Path(__file__).resolve().parents[2] / "shared" / "real"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real data on this machine")


def picture(size=(40, 60), box=None, paint=(0, 0, 128)):
    "Grey noise, with a painted rectangle (x1, y1, x2, y2)."
    image = np.repeat(np.random.default_rng(0).integers(60, 90, (*size, 1), np.uint8), 3, 2)
    if box:
        image[box[1] : box[3], box[0] : box[2]] = paint
    return image


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def color_folder(root):
    for split, name, box in [("train", "a", (5, 6, 30, 20)), ("test", "b", (10, 10, 50, 35))]:
        save(root / "AC" / split / "image" / f"{name}.png", picture())
        save(root / "AC" / split / "label" / f"{name}.png", picture(box=box))


def hc18_folder(root):
    for name in ("000_HC", "000_2HC"):
        save(root / "training_set" / f"{name}.png", picture())
        save(root / "training_set" / f"{name}_Annotation.png", picture(box=(5, 6, 30, 20), paint=255) // 128 * 255)
    (root / "pixel.csv").write_text("filename,pixel size(mm)\n000_HC.png,0.1\n000_2HC.png,0.2\n")


def voc_folder(root, body=None):
    save(root / "JPEGImages" / "c.jpg", picture())
    (root / "Annotations").mkdir(exist_ok=True)
    box = "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"
    body = body or f"<annotation><filename>c.jpg</filename><object><name>RBC</name>{box}</object></annotation>"
    (root / "Annotations" / "c.xml").write_text(body)


def csv_folder(root, text="name,x1,x2,y1,y2,classname\na.png,5,30,6,20,AC\n"):
    save(root / "image" / "a.png", picture())
    (root / "train.csv").write_text(text)


@pytest.mark.parametrize("make, format, name", [
    (color_folder, "color", "AC/train/image/a.png"), (hc18_folder, "hc18", "training_set/000_HC.png"),
    (voc_folder, "voc", "JPEGImages/c.jpg"), (csv_folder, "csv", "image/a.png")])
def test_each_format_is_detected_and_gives_the_same_box(tmp_path, make, format, name):
    make(tmp_path)
    table = read_boxes(tmp_path)
    assert table.attrs["format"] == format
    assert table.columns[:6].tolist() == BOX_COLUMNS
    row = table.set_index("name").loc[name]
    assert row[["x1", "x2", "y1", "y2"]].tolist() == [5, 30, 6, 20]


def test_masks_are_used_when_asked_or_when_there_is_no_paint(tmp_path):
    color_folder(tmp_path)
    for split, name in [("train", "a"), ("test", "b")]:
        save(tmp_path / "AC" / split / "mask" / f"{name}.png", picture(box=(1, 2, 30, 20), paint=255) // 128 * 255)
    assert read_boxes(tmp_path).attrs["format"] == "color"
    assert read_boxes(tmp_path, format="mask")["x1"].tolist() == [1, 1]
    for path in tmp_path.glob("*/*/label/*"):
        path.unlink()
    assert read_boxes(tmp_path).attrs["format"] == "mask"


def test_images_csv_adds_group_and_pixel_size(tmp_path):
    color_folder(tmp_path)
    (tmp_path / "images.csv").write_text("name,classname,split,group,ga_weeks,pixel_size,size_mm\n"
                                         "a.png,AC,train,exam1,20,0.25,100\nAC/test/image/b.png,AC,test,exam2,21,0.5,9\n")
    table = read_boxes(tmp_path).set_index("name")
    assert table.loc["AC/train/image/a.png", ["group", "pixel_size"]].tolist() == ["exam1", 0.25]
    assert table.loc["AC/test/image/b.png", ["group", "pixel_size"]].tolist() == ["exam2", 0.5]


def test_empty_labels_are_images_without_objects_when_allowed(tmp_path):
    color_folder(tmp_path)
    save(tmp_path / "AC" / "train" / "label" / "a.png", picture())
    table = read_boxes(tmp_path, allow_empty=True)
    assert table.loc[table["name"] == "AC/train/image/a.png", ["classname", "split"]].to_numpy().tolist() == [["", "train"]]
    back = read_boxes_csv(write_boxes_csv(table, tmp_path / "boxes.csv"))
    pd.testing.assert_frame_equal(back, table, check_exact=True)


def label_a(root):
    return root / "AC" / "train" / "label" / "a.png"


def image_a(root):
    return root / "AC" / "train" / "image" / "a.png"


XML_BOMB = ('<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
            "<annotation><filename>&b;</filename></annotation>")
XML_TEXT = ("<annotation><filename>c.jpg</filename><object><name>RBC</name><bndbox><xmin>five</xmin><ymin>6</ymin>"
            "<xmax>30</xmax><ymax>20</ymax></bndbox></object></annotation>")
HEADER = "name,x1,x2,y1,y2,classname\n"


BAD = [  # (what is wrong, folder, how it is spoiled, what the sentence holds)
    ("label of zero bytes", color_folder, lambda r: label_a(r).write_bytes(b""), "AC/train/label/a.png: the file is empty"),
    ("image of zero bytes", color_folder, lambda r: image_a(r).write_bytes(b""), "AC/train/image/a.png: the file is empty"),
    ("label is a text", color_folder, lambda r: label_a(r).write_text("hello"), "AC/train/label/a.png: not readable"),
    ("label is cut off", color_folder, lambda r: label_a(r).write_bytes(label_a(r).read_bytes()[:-60]),
     "AC/train/label/a.png: the image is cut off"),
    ("label without paint", color_folder, lambda r: save(label_a(r), picture()), "AC/train/label/a.png: no painted pixel"),
    ("label of another size", color_folder, lambda r: save(label_a(r), picture((40, 61), (5, 5, 20, 20))),
     "AC/train/label/a.png: the label is 61×40 pixels but its image AC/train/image/a.png is 60×40"),
    ("label missing", color_folder, lambda r: label_a(r).unlink(), "AC/train/image/a.png: its label is missing"),
    ("image missing", color_folder, lambda r: image_a(r).unlink(), "AC/train/label/a.png: its image is missing"),
    ("two images of one name", color_folder, lambda r: save(image_a(r).with_suffix(".jpg"), picture()),
     "AC/train/image/a.png: a.jpg has the same name"),
    ("unknown split", color_folder, lambda r: (r / "AC" / "train").rename(r / "AC" / "night"), "'night' is not a split"),
    ("image folder missing", color_folder, lambda r: image_a(r).parent.rename(r / "x"), "AC/train/image: the folder is missing"),
    ("head not drawn", hc18_folder, lambda r: save(r / "training_set" / "000_HC_Annotation.png", picture() * 0),
     "training_set/000_HC_Annotation.png: no painted pixel"),
    ("head image missing", hc18_folder, lambda r: (r / "training_set" / "000_HC.png").unlink(),
     "training_set/000_HC.png: the image is missing"),
    ("pixel size is a word", hc18_folder, lambda r: (r / "pixel.csv").write_text("filename,pixel size(mm)\n000_HC.png,big\n"),
     "pixel.csv, row 1: pixel size(mm) is 'big'"),
    ("XML cut off", voc_folder, lambda r: voc_folder(r, "<annotation><object>"), "Annotations/c.xml: not valid XML"),
    ("XML empty", voc_folder, lambda r: voc_folder(r, " "), "Annotations/c.xml: not valid XML"),
    ("XML entity bomb", voc_folder, lambda r: voc_folder(r, XML_BOMB), "Annotations/c.xml: the XML declares entities"),
    ("XML of another kind", voc_folder, lambda r: voc_folder(r, "<html/>"), "Annotations/c.xml: the XML holds <html>"),
    ("XML coordinate is a word", voc_folder, lambda r: voc_folder(r, XML_TEXT), "Annotations/c.xml, object 0: xmin is 'five'"),
    ("XML coordinate missing", voc_folder, lambda r: voc_folder(r, XML_TEXT.replace("<xmin>five</xmin>", "")),
     "Annotations/c.xml, object 0: <xmin> is missing"),
    ("XML class missing", voc_folder, lambda r: voc_folder(r, XML_TEXT.replace("<name>RBC</name>", "")), "object 0: the class name is missing"),
    ("VOC image missing", voc_folder, lambda r: (r / "JPEGImages" / "c.jpg").unlink(), "Annotations/c.xml: the image c.jpg is not below the folder"),
    ("CSV without a column", csv_folder, lambda r: csv_folder(r, "name,x1,x2,y1,classname\na.png,1,2,3,AC\n"),
     "train.csv: the column 'y2' is missing"),
    ("CSV with a word", csv_folder, lambda r: csv_folder(r, HEADER + "a.png,1,2,3,4,AC\na.png,1,wide,3,4,AC\n"),
     "train.csv, row 2: x2 is 'wide'"),
    ("CSV with nan", csv_folder, lambda r: csv_folder(r, HEADER + "a.png,nan,2,3,4,AC\n"), "train.csv, row 1: x1 is 'nan'"),
    ("CSV with inf", csv_folder, lambda r: csv_folder(r, HEADER + "a.png,1,-inf,3,4,AC\n"), "train.csv, row 1: x2 is '-inf'"),
    ("CSV with 1e999", csv_folder, lambda r: csv_folder(r, HEADER + "a.png,1,1e999,3,4,AC\n"), "train.csv, row 1: x2 is '1e999'"),
    ("CSV empty", csv_folder, lambda r: csv_folder(r, ""), "train.csv: the file is empty"),
    ("CSV is not text", csv_folder, lambda r: (r / "train.csv").write_bytes(b"\xff\xfe\x00\x81\x00"), "train.csv: not a text file"),
    ("CSV ragged", csv_folder, lambda r: csv_folder(r, HEADER + "a.png,1,2,3,4,AC\na.png,1,2,3,4,AC,9,9\n"), "train.csv: not a table"),
    ("CSV names a missing image", csv_folder, lambda r: csv_folder(r, HEADER + "gone.png,1,2,3,4,AC\n"), "train.csv, row 1: the image gone.png is not below"),
    ("CSV name leaves the folder", csv_folder, lambda r: csv_folder(r, HEADER + "../z.png,1,2,3,4,AC\n"), "row 1: the name '../z.png'"),
    ("CSV name is absolute", csv_folder, lambda r: csv_folder(r, HEADER + "/etc/z.png,1,2,3,4,AC\n"), "row 1: the name '/etc/z.png'"),
    ("CSV name is empty", csv_folder, lambda r: csv_folder(r, HEADER + ",1,2,3,4,AC\n"), "train.csv, row 1: the name ''"),
    ("two images of one bare name", csv_folder, lambda r: save(r / "other" / "a.png", picture()), "train.csv, row 1: 2 files have the name a.png"),
    ("nothing there", lambda r: None, lambda r: None, "no labels found (looked for hc18"),
]


@pytest.mark.parametrize("what, make, spoil, sentence", BAD, ids=[case[0] for case in BAD])
def test_bad_input_is_one_sentence_and_no_output(tmp_path, capfd, what, make, spoil, sentence):
    folder = tmp_path / "in"
    folder.mkdir()
    make(folder)
    spoil(folder)
    assert frcnn_boxes([str(folder), "-o", str(tmp_path / "boxes.csv")]) == 1
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and sentence in err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_missing_folder_and_missing_output_folder(tmp_path, capfd):
    assert frcnn_boxes([str(tmp_path / "none"), "-o", str(tmp_path / "boxes.csv")]) == 1
    assert "none: the folder does not exist" in capfd.readouterr().err
    color_folder(tmp_path / "in")
    assert frcnn_boxes([str(tmp_path / "in"), "-o", str(tmp_path / "out" / "boxes.csv")]) == 1
    assert "out does not exist" in capfd.readouterr().err
    assert frcnn_boxes([str(tmp_path / "in"), "-o", str(tmp_path / "b.csv"), "--one-based"]) == 1
    assert "--one-based" in capfd.readouterr().err


def test_further_bad_files_are_counted(tmp_path):
    color_folder(tmp_path)
    for path in tmp_path.glob("*/*/label/*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"AC/test/label/b.png: .*1 more"):
        read_boxes(tmp_path)


def test_shell_says_format_counts_and_findings(tmp_path, capfd):
    color_folder(tmp_path / "in")
    label = picture(box=(5, 6, 30, 20))
    label[30:39, 40:55] = label[0:1, 50:51] = (0, 0, 128)  # a second object and a speck
    save(label_a(tmp_path / "in"), label)
    assert frcnn_boxes([str(tmp_path / "in"), "--check", "-o", str(tmp_path / "boxes.csv")]) == 1     # one image twice
    out = capfd.readouterr().out
    for words in ("format: color", "2 images, 3 boxes, 1 classes", "1 specks below 25 pixels", "2 separate contours are read as 2"):
        assert words in out
    assert len(read_boxes_csv(tmp_path / "boxes.csv", resolve=False)) == 3
    assert frcnn_boxes([str(tmp_path / "in"), "-o", str(tmp_path / "boxes.csv"), "--one-object"]) == 0
    assert len(read_boxes_csv(tmp_path / "boxes.csv", resolve=False)) == 2


def test_csv_with_semicolons_and_byte_order_mark(tmp_path):
    csv_folder(tmp_path)
    (tmp_path / "train.csv").write_text("\ufeffname;x1;x2;y1;y2;classname\na.png;5;30.5;6;20;AC\n", encoding="utf-8")
    assert read_boxes(tmp_path)[["x1", "x2"]].to_numpy().tolist() == [[5, 30.5]]


def test_predictions_keep_their_score(tmp_path):
    table = boxes_table([{"name": "a.png", "x1": 0.1, "x2": 2, "y1": 1 / 3, "y2": 4, "classname": "AC", "score": 2 / 3}])
    back = read_boxes_csv(write_boxes_csv(table, tmp_path / "predictions.csv"), resolve=False)
    pd.testing.assert_frame_equal(back, table, check_exact=True)


def test_phantom_labels_masks_and_csv_give_its_own_boxes(tmp_path):
    phantom = pytest.importorskip("frcnn_nbdev.phantom")
    truth = phantom.write_phantom(tmp_path / "p", images=(8, 4, 4), seed=0, progress=False).sort_values("name")
    for format in ("auto", "color", "mask", "csv"):
        table = read_boxes(tmp_path / "p", format=format).sort_values("name")
        also = {"also": ["mask", "csv"]} if format == "auto" else {}
        assert table.attrs == {"format": "color" if format == "auto" else format, "findings": [], **also}
        columns = [*BOX_COLUMNS, "split"] + (["group", "pixel_size", "width", "height"] if format != "csv" else [])
        expected = truth[columns].astype({corner: "float64" for corner in ("x1", "x2", "y1", "y2")})
        pd.testing.assert_frame_equal(table[columns].reset_index(drop=True), expected.reset_index(drop=True),
                                      check_dtype=False)


@needs_real
def test_hc18():
    table = read_boxes(REAL / "hc18")
    assert table.attrs == {"format": "hc18", "findings": []}
    assert len(table) == table["name"].nunique() == 300
    assert table["split"].value_counts().to_dict() == {"train": 240, "test": 60}
    assert table.groupby("split")["group"].nunique().to_dict() == {"train": 190, "test": 40}
    assert table["pixel_size"].between(0.04, 0.4).all()
    assert (table["x2"] <= table["width"]).all() and (table["y2"] <= table["height"]).all()


@needs_real
def test_bccd_keeps_its_two_boxes_without_area():
    table = read_boxes(REAL / "bccd")
    assert len(table) == 4888 and table["name"].nunique() == 364
    assert table.groupby("split").size().to_dict() == {"train": 2805, "val": 1138, "test": 945}
    flat = table[table["x1"] == table["x2"]]
    assert flat[["name", "x1", "y1"]].to_numpy().tolist() == [
        ["JPEGImages/BloodImage_00338.jpg", 504, 337], ["JPEGImages/BloodImage_00343.jpg", 181, 329]]


@needs_real
@pytest.mark.parametrize("name", ["hc18", "bccd"])
def test_real_tables_survive_csv(tmp_path, name):
    table = read_boxes(REAL / name)
    back = read_boxes_csv(write_boxes_csv(table, tmp_path / "boxes.csv"), root=REAL / name)
    pd.testing.assert_frame_equal(back, table, check_exact=True)
