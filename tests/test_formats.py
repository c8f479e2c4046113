"Formats of labelling tools: each bad or hostile folder is read rightly or refused in one sentence; round trips."
import base64
import itertools
import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from frcnn_nbdev.data import check_boxes, frcnn_boxes
from frcnn_nbdev.formats import (
    FORMATS,
    WRITERS,
    detect_format,
    find_formats,
    labelme_to_masks,
    read_boxes,
    read_coco,
    segmentation_mask,
    write_boxes,
)
from frcnn_nbdev.labels import BOX_COLUMNS, boxes_table, read_boxes_csv, read_image, read_masks

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"
BOX = [5.0, 30.0, 6.0, 20.0]  # x1 x2 y1 y2 in an image of 60×40
XYWH = [5, 6, 25, 14]
HOSTILE = "<script>alert('x')</script> $(rm -rf ~); `ls` \"'&; 头 café"


def put(path: Path, content=None) -> None:
    "A text, bytes, JSON content, or for None a grey picture of 60×40 pixels."
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        assert cv2.imwrite(str(path), np.full((40, 60, 3), 90, np.uint8))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def png_header(width: int, height: int) -> bytes:
    "A PNG that claims a size and holds nothing."
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def voc_xml(classname="AC", box=(5, 6, 30, 20), filename="a.png", head="") -> str:
    corners = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return (f"{head}<annotation><filename>{filename}</filename><object><name>{classname}</name>"
            f"<bndbox>{corners}</bndbox></object></annotation>")


def voc(root, **parts):
    put(root / "JPEGImages" / "a.png")
    put(root / "Annotations" / "a.xml", parts.pop("text", None) or voc_xml(**parts))


def shape(**changes):
    return {"label": "AC", "shape_type": "rectangle", "points": [[5, 6], [30, 20]], **changes}


def labelme(root, *shapes, **changes):
    put(root / "a.png")
    put(root / "a.json", {"imagePath": "a.png", "imageData": None, "imageWidth": 60, "imageHeight": 40,
                          "shapes": list(shapes) or [shape()], **changes})


def coco(root, *annotations, **changes):
    put(root / "images" / "a.png")
    put(root / "annotations" / "instances_train.json", {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}], "categories": [{"id": 1, "name": "AC"}],
        "annotations": list(annotations) or [one()], **changes})


def one(**changes):
    return {"id": 1, "image_id": 1, "category_id": 1, "bbox": XYWH, "iscrowd": 0, **changes}


LINE = "0 0.291666667 0.325 0.416666667 0.35"


def yolo(root, label="0 0.291666667 0.325 0.416666667 0.35\n", config="train: images\nnames: [AC]\n"):
    put(root / "images" / "a.png")
    put(root / "labels" / "a.txt", label)
    put(root / "data.yaml", config)


def solo_frame(filename="step0.camera.png", origin=(5, 6), classname="AC", kind="BoundingBox2DAnnotation"):
    values = [{"instanceId": 1, "labelId": 1, "labelName": classname, "origin": list(origin), "dimension": [25, 14]}]
    return {"frame": 0, "captures": [{"filename": filename, "dimension": [60, 40], "annotations": [
        {"@type": f"type.unity.com/unity.solo.{kind}", "values": values}]}]}


def solo(root, **changes):
    put(root / "sequence.0" / "step0.camera.png")
    put(root / "sequence.0" / "step0.frame_data.json", changes.pop("text", None) or solo_frame(**changes))


def ids(root, value=3, name="a_mask.png"):
    put(root / "PNGImages" / "a.png")
    mask = np.zeros((40, 60), np.uint8)
    mask[6:20, 5:30] = value
    put(root / "PedMasks" / name, cv2.imencode(Path(name).suffix, mask)[1].tobytes())


def ids_gif(root, frames=1):
    ids(root)
    mask = Image.open(root / "PedMasks" / "a_mask.png")
    more = [Image.fromarray(np.full((40, 60), at, np.uint8)) for at in range(1, frames)]
    mask.save(root / "PedMasks" / "a_mask.gif", save_all=True, append_images=more)
    (root / "PedMasks" / "a_mask.png").unlink()


def color(root):
    put(root / "AC" / "train" / "image" / "a.png")
    label = np.full((40, 60, 3), 90, np.uint8)
    label[6:20, 5:30] = (0, 0, 128)
    put(root / "AC" / "train" / "label" / "a.png", cv2.imencode(".png", label)[1].tobytes())


def hc18(root):
    put(root / "training_set" / "000_HC.png")
    mask = np.zeros((40, 60), np.uint8)
    mask[6:20, 5:30] = 255
    put(root / "training_set" / "000_HC_Annotation.png", cv2.imencode(".png", mask)[1].tobytes())


def csv(root, text="name,x1,x2,y1,y2,classname\na.png,5,30,6,20,AC\n"):
    put(root / "a.png")
    put(root / "boxes.csv", text)


NAMES = {voc: "JPEGImages/a.png", labelme: "a.png", coco: "images/a.png", yolo: "images/a.png", csv: "a.png",
         solo: "sequence.0/step0.camera.png", ids: "PNGImages/a.png", color: "AC/train/image/a.png",
         hc18: "training_set/000_HC.png"}


@pytest.mark.parametrize("make", NAMES, ids=lambda make: make.__name__)
def test_every_format_is_detected_and_gives_the_same_box(tmp_path, make):
    make(tmp_path)
    table = read_boxes(tmp_path)
    assert table.attrs["format"] == make.__name__ == detect_format(tmp_path)
    assert table["name"].tolist() == [NAMES[make]]
    assert table[["x1", "x2", "y1", "y2"]].to_numpy().tolist() == [BOX]
    assert table["classname"].tolist() == [{ids: "object", hc18: "HC"}.get(make, "AC")]
    assert table[["width", "height"]].to_numpy().tolist() == [[60, 40]] or make is csv


def link(path: Path, target: Path) -> None:
    "The file at path becomes a link to a copy of it outside the folder."
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)


def nested(depth=10_000) -> str:
    return "[" * depth + "]" * depth


BOMB = ('<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;"><!ENTITY c "&b;&b;&b;">]>')
FILE_ENTITY = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
POLYGON = [5, 6, 30, 6, 30, 20, 5, 20]
RLE = {"size": [40, 60], "counts": [5 * 40 + 6] + [14, 26] * 24 + [14, 20 + 30 * 40]}
PIXELS = base64.b64encode(cv2.imencode(".png", np.full((14, 25), 255, np.uint8))[1].tobytes()).decode()
PICTURE = base64.b64encode(cv2.imencode(".png", np.full((40, 60, 3), 90, np.uint8))[1].tobytes()).decode()
MASK = shape(shape_type="mask", points=[[5, 6], [29, 19]], mask=PIXELS)
AC, READ = [[*BOX, "AC"]], [[*BOX, HOSTILE]]

# what, how the folder is made, and either the words of the refusal or the rows x1 x2 y1 y2 classname that are read
CASES = [
    # VOC
    ("voc xml entities", lambda r: voc(r, head=BOMB, classname="&c;"), "Annotations/a.xml: the XML declares entities"),
    ("voc xml reads a file", lambda r: voc(r, head=FILE_ENTITY, classname="&a;"), "Annotations/a.xml: the XML declares entities"),
    ("voc name with ..", lambda r: voc(r, filename="../../b.png"), "Annotations/a.xml: the name '../../b.png' leaves"),
    ("voc stale path to its own image", lambda r: voc(r, filename="/home/me/a.png"), AC),
    ("voc name absolute", lambda r: voc(r, filename="/etc/passwd"), "Annotations/a.xml: the name '/etc/passwd' leaves"),
    ("voc name of Windows", lambda r: voc(r, filename="C:\\x\\b.png"), "leaves the folder"),
    ("voc name with folder", lambda r: voc(r, filename="JPEGImages\\a.png"), AC),
    ("voc nan", lambda r: voc(r, box=("nan", 6, 30, 20)), "object 0: xmin is 'nan', which is not a number"),
    ("voc 1e308", lambda r: voc(r, box=(5, 6, "1e308", 20)), "object 0: xmax is '1e308', which is larger than any image"),
    ("voc fraction", lambda r: voc(r, box=("5.25", 6, " 30 ", "2e1")), [[5.25, 30, 6, 20, "AC"]]),
    ("voc hostile class", lambda r: voc(r, classname=HOSTILE.replace("&", "&amp;").replace("<", "&lt;")), READ),
    ("voc class on a line of its own", lambda r: voc(r, classname="\n   AC\n  "), AC),
    ("voc image is a link out", lambda r: (voc(r), link(r / "JPEGImages" / "a.png", r.parent / "s.png")),
     "JPEGImages/a.png is a link that leaves the folder"),
    ("voc xml is a link out", lambda r: (voc(r), link(r / "Annotations" / "a.xml", r.parent / "s.xml")),
     "Annotations/a.xml: Annotations/a.xml is a link that leaves"),
    ("voc folder like a file", lambda r: (voc(r), (r / "Annotations" / "b.xml").mkdir()), "Annotations/b.xml: this is a folder"),
    ("voc empty file", lambda r: (voc(r), put(r / "Annotations" / "b.xml", b"")), "Annotations/b.xml: the file is empty"),
    ("voc latin-1 with declaration", lambda r: voc(r, text=voc_xml("caf\xe9", head='<?xml version="1.0" encoding="latin-1"?>')
                                                   .encode("latin-1")), [[*BOX, "café"]]),
    ("voc latin-1 without", lambda r: voc(r, text=voc_xml("caf\xe9").encode("latin-1")), "Annotations/a.xml: not valid XML"),
    ("voc byte order mark and CRLF", lambda r: voc(r, text=b"\xef\xbb\xbf" + voc_xml().replace("><", ">\r\n<").encode()), AC),
    ("voc unknown encoding", lambda r: voc(r, head='<?xml version="1.0" encoding="none-8"?>'), "Annotations/a.xml: not valid XML"),
    ("voc deep", lambda r: voc(r, text="<annotation>" + "<a>" * 10_000 + "</a>" * 10_000 + "<filename>a.png</filename></annotation>"),
     [[np.nan] * 4 + [""]]),
    ("voc split list names nobody", lambda r: (voc(r), put(r / "ImageSets/Main/train.txt", "z\n")), "train.txt: z has no annotation"),
    ("voc split list is latin-1", lambda r: (voc(r), put(r / "ImageSets/Main/train.txt", b"\xe9\n")), "train.txt: not a text file in UTF-8"),
    ("voc gigapixel image", lambda r: (voc(r), put(r / "JPEGImages" / "a.png", png_header(50_000, 50_000))),
     "JPEGImages/a.png: 50000×50000 pixels are more than"),
    # LabelMe
    ("labelme polygon", lambda r: labelme(r, shape(shape_type="polygon", points=[[5, 6], [30, 6], [30, 20]])), AC),
    ("labelme rectangle from below", lambda r: labelme(r, shape(points=[[30, 20], [5, 6]])), AC),
    ("labelme circle", lambda r: labelme(r, shape(shape_type="circle", points=[[20, 20], [23, 24]])), [[15, 25, 15, 25, "AC"]]),
    ("labelme circle over the edge", lambda r: labelme(r, shape(shape_type="circle", points=[[2, 2], [2, 12]])), [[0, 12, 0, 12, "AC"]]),
    ("labelme line", lambda r: labelme(r, shape(shape_type="line", points=[[10, 10], [20, 10]])), [[5, 25, 5, 15, "AC"]]),
    ("labelme mask", lambda r: labelme(r, MASK), AC),
    ("labelme image inside", lambda r: (labelme(r, imageData=PICTURE), (r / "a.png").unlink()), AC),
    ("labelme image inside is no image", lambda r: (labelme(r, imageData="aGVsbG8="), (r / "a.png").unlink()),
     "a.json: not readable as an image"),
    ("labelme image inside is no base 64", lambda r: (labelme(r, imageData="a"), (r / "a.png").unlink()), "a.json: no image is inside"),
    ("labelme image inside is a bomb", lambda r: (labelme(r, imageData=base64.b64encode(png_header(60_000, 60_000)).decode()),
                                                  (r / "a.png").unlink()), "a.json: 60000×60000 pixels are more"),
    ("labelme image missing", lambda r: (labelme(r), (r / "a.png").unlink()), "a.json: its image 'a.png' is missing"),
    ("labelme path with ..", lambda r: labelme(r, imagePath="..\\..\\etc\\passwd"), "a.json: the name '..\\\\..\\\\etc\\\\passwd' leaves"),
    ("labelme path within", lambda r: (put(r / "a.png"), put(r / "json" / "b.json", {"imagePath": "..\\a.png", "shapes": [shape()]})), AC),
    ("labelme path absolute", lambda r: labelme(r, imagePath="/etc/passwd"), "a.json: the name '/etc/passwd' leaves"),
    ("labelme path with NUL", lambda r: labelme(r, imagePath="a\0.png"), "is empty or has a control character"),
    ("labelme deep", lambda r: (labelme(r), put(r / "a.json", '{"shapes": ' + nested() + "}")), "a.json: the JSON is nested too deeply"),
    ("labelme NaN", lambda r: labelme(r, shape(points=[[float("nan"), 6], [30, 20]])), "a.json: NaN is not a number"),
    ("labelme 1e308", lambda r: labelme(r, shape(points=[[1e308, 6], [30, 20]])), "shape 0: a coordinate is 1e+308, which is larger"),
    ("labelme huge integer", lambda r: labelme(r, shape(points=[[10**400, 6], [30, 20]])), "which is larger than any image"),
    ("labelme coordinate is true", lambda r: labelme(r, shape(points=[[True, 6], [30, 20]])), "a coordinate is True, which is not a number"),
    ("labelme key twice", lambda r: (labelme(r), put(r / "a.json", '{"shapes": [], "shapes": []}')), "a.json: the key 'shapes' is there twice"),
    ("labelme cut off", lambda r: (labelme(r), put(r / "a.json", '{"shapes": [{"label"')), "a.json, line 1, column 21: not valid JSON"),
    ("labelme empty file", lambda r: (labelme(r), put(r / "a.json", b"")), "a.json: the file is empty"),
    ("labelme latin-1", lambda r: (labelme(r), put(r / "a.json", b'{"shapes": "\xe9"}')), "a.json: not a text file in UTF-8 (byte 12)"),
    ("labelme byte order mark", lambda r: (labelme(r), put(r / "a.json", b"\xef\xbb\xbf" + (r / "a.json").read_bytes())), AC),
    ("labelme class is a number", lambda r: labelme(r, shape(label=7)), "a.json, shape 0: the class 7 is not a text"),
    ("labelme class missing", lambda r: labelme(r, shape(label="")), "a.json, shape 0: the class name is missing"),
    ("labelme class with line break", lambda r: labelme(r, shape(label="A\nC")), "shape 0: the class 'A\\nC' has a control character"),
    ("labelme hostile class", lambda r: labelme(r, shape(label=HOSTILE)), READ),
    ("labelme unknown shape", lambda r: labelme(r, shape(shape_type="blob")), "shape 0: the shape 'blob' is not known"),
    ("labelme two-point polygon", lambda r: labelme(r, shape(shape_type="polygon")), "shape 0: a polygon of 2 points cannot be"),
    ("labelme shapes is an object", lambda r: labelme(r, shapes={}), "a.json: 'shapes' is missing or not a list"),
    ("labelme mask over the edge", lambda r: labelme(r, {**MASK, "points": [[50, 6], [80, 19]]}), "shape 0: its mask is damaged or reaches over"),
    ("labelme mask is a bomb", lambda r: labelme(r, {**MASK, "mask": base64.b64encode(png_header(60_000, 60_000)).decode()}),
     "a.json, shape 0, mask: 60000×60000"),
    ("labelme folder like a file", lambda r: (labelme(r), (r / "b.json").mkdir()), "b.json: this is a folder"),
    ("labelme points", lambda r: labelme(r, shape(shape_type="points", points=[[10, 11], [25, 15]])), AC),
    ("labelme UTF-16", lambda r: (labelme(r), put(r / "a.json", (r / "a.json").read_text().encode("utf-16"))), AC),
    ("labelme no shapes", lambda r: labelme(r, shapes=[]), [[np.nan] * 4 + [""]]),
    ("labelme image is a link out", lambda r: (labelme(r), link(r / "a.png", r.parent / "s.png")), "a.png is a link that leaves"),
    # COCO
    ("coco bbox is empty", lambda r: coco(r, one(bbox=[], segmentation=[POLYGON])), AC),
    ("coco polygon without bbox", lambda r: coco(r, one(bbox=None, segmentation=[POLYGON])), AC),
    ("coco run lengths without bbox", lambda r: coco(r, one(bbox=None, segmentation=RLE)), AC),
    ("coco compressed run lengths", lambda r: coco(r, one(bbox=None, segmentation={
        "size": [40, 60], "counts": "V68P1" + "0" * 47 + "Zn0"})), "annotation 0: its run lengths do not fill 60×40"),
    ("coco run lengths cut off", lambda r: coco(r, one(segmentation={"size": [40, 60], "counts": "V6o"})), "annotation 0: its run lengths"),
    ("coco run lengths negative", lambda r: coco(r, one(segmentation={"size": [40, 60], "counts": [-1, 2401]})), "its run lengths do not fill"),
    ("coco run lengths of a gigapixel", lambda r: coco(r, one(segmentation={"size": [10**6, 10**6], "counts": [10**12]})), "too many"),
    ("coco polygon of numbers", lambda r: coco(r, one(segmentation=[[1, 2, "3", 4, 5, 6]])), "annotation 0: a polygon is not a list"),
    ("coco name with ..", lambda r: coco(r, images=[{"id": 1, "file_name": "../b.png"}]), "image 1: the name '../b.png' leaves the folder"),
    ("coco name absolute", lambda r: coco(r, images=[{"id": 1, "file_name": "/etc/passwd"}]), "image 1: the name '/etc/passwd' leaves the folder"),
    ("coco name of another computer that two images could be", lambda r: (coco(r, images=[{"id": 1, "file_name": "C:\\me\\b.png"}]),
        put(r / "p/b.png"), put(r / "q/b.png")), "image 1: the name 'C:\\\\me\\\\b.png' leaves the folder"),
    ("coco image of another computer is a link out", lambda r: (coco(r, images=[{"id": 1, "file_name": "/x/images/a.png"}]),
        link(r / "images" / "a.png", r.parent / "s.png")), "images/a.png is a link that leaves"),
    ("coco image missing", lambda r: coco(r, images=[{"id": 1, "file_name": "z.png"}]),
     "annotations/instances_train.json, image 1: the image z.png is not below the folder"),
    ("coco image without size", lambda r: coco(r, images=[{"id": 1, "file_name": "a.png"}]), AC),
    ("coco size is a lie", lambda r: coco(r, images=[{"id": 1, "file_name": "a.png", "width": -5, "height": 1e9}]), AC),
    ("coco id twice", lambda r: coco(r, images=[{"id": 1, "file_name": "a.png"}] * 2), "the image id 1 is there twice"),
    ("coco ids are texts", lambda r: coco(r, one(image_id="i", category_id="c"), images=[{"id": "i", "file_name": "a.png"}],
        categories=[{"id": "c", "name": "AC"}]), AC),
    ("coco ids are numbers here and texts there", lambda r: coco(r, one(image_id=1.0, category_id="1"), images=[{"id": "1", "file_name": "a.png"}]), AC),
    ("coco id is a fraction", lambda r: coco(r, images=[{"id": 1.5, "file_name": "a.png"}]), "image 0: the id is missing or neither"),
    ("coco id is true", lambda r: coco(r, images=[{"id": True, "file_name": "a.png"}]), "image 0: the id is missing or neither"),
    ("coco crowd of run lengths with its box", lambda r: coco(r, one(iscrowd=1, segmentation=RLE)), AC),
    ("coco in UTF-16", lambda r: (coco(r), put(r / "annotations/instances_train.json", (r / "annotations/instances_train.json").read_text().encode("utf-16"))), AC),
    ("coco unknown image", lambda r: coco(r, one(image_id=9)), "annotation 0: the image 9 is not in the list"),
    ("coco unknown category", lambda r: coco(r, one(category_id=9)), "annotation 0: the category 9 is not in the list"),
    ("coco unhashable category", lambda r: coco(r, one(category_id=[1])), "annotation 0: the category [1] is not in the list"),
    ("coco bbox of three", lambda r: coco(r, one(bbox=[1, 2, 3])), "annotation 0: bbox is [1, 2, 3]; give x, y"),
    ("coco bbox infinite", lambda r: coco(r, one(bbox=[1, 2, 3, float("inf")])), "instances_train.json: Infinity is not a number"),
    ("coco bbox 1e308", lambda r: coco(r, one(bbox=[1, 2, 3, 1e308])), "annotation 0: bbox is 1e+308, which is larger"),
    ("coco annotation is a list", lambda r: coco(r, [1]), "annotation 0: the image None is not in the list"),
    ("coco no box at all", lambda r: coco(r, one(bbox=None)), "annotation 0: neither bbox nor segmentation"),
    ("coco hostile class", lambda r: coco(r, categories=[{"id": 1, "name": HOSTILE}]), READ),
    ("coco deep", lambda r: (coco(r), put(r / "annotations/instances_train.json", nested())), "instances_train.json: the JSON is nested too deeply"),
    ("coco empty file", lambda r: (coco(r), put(r / "annotations/instances_train.json", b"")), "instances_train.json: the file is empty"),
    ("coco lists missing", lambda r: coco(r, annotations={}), "instances_train.json: 'annotations' is missing or not a list"),
    # YOLO
    ("yolo polygon", lambda r: yolo(r, "0 0.0833333333 0.15 0.5 0.15 0.5 0.5\n"), AC),
    ("yolo CRLF and blank lines", lambda r: yolo(r, "\r\n0 0.291666667 0.325 0.416666667 0.35\r\n\r\n"), AC),
    ("yolo no names", lambda r: (yolo(r), (r / "data.yaml").unlink()), [[*BOX, "0"]]),
    ("yolo no label file", lambda r: (yolo(r), (r / "labels" / "a.txt").unlink()), [[np.nan] * 4 + [""]]),
    ("yolo empty label file", lambda r: yolo(r, ""), [[np.nan] * 4 + [""]]),
    ("yolo pixels", lambda r: yolo(r, "0 17 13 25 14\n"), "labels/a.txt, line 1: these are no fractions"),
    ("yolo four values", lambda r: yolo(r, "0 0.1 0.1 0.1\n"), "labels/a.txt, line 1: 4 values"),
    ("yolo nan", lambda r: yolo(r, "0 nan 0.1 0.1 0.1\n"), "labels/a.txt, line 1: a value is 'nan', which is not a number"),
    ("yolo 1e308", lambda r: yolo(r, "0 1e308 0.1 0.1 0.1\n"), "line 1: a value is '1e308', which is larger"),
    ("yolo class too large", lambda r: yolo(r, "1 0.1 0.1 0.1 0.1\n"), "labels/a.txt, line 1: the class 1 is not in the list"),
    ("yolo class is no number", lambda r: yolo(r, "AC 0.1 0.1 0.1 0.1\n"), "line 1: a value is 'AC', which is not a number"),
    ("yolo image missing", lambda r: (yolo(r), put(r / "labels" / "z.txt", "")), "labels/z.txt: its image is missing"),
    ("yolo train leaves the folder", lambda r: yolo(r, config="train: ../../etc\nnames: [AC]\n"), "data.yaml, train: the name '../../etc' leaves"),
    ("yolo train as Roboflow writes it", lambda r: yolo(r, config="train: ../images\nnames: [AC]\n"), AC),
    ("yolo train is a list that leaves", lambda r: (yolo(r, config="train: t.txt\nnames: [AC]\n"), put(r / "t.txt", "images/a.png\n/etc/passwd\n")),
     "t.txt, line 2: the name '/etc/passwd' leaves"),
    ("yolo train is nowhere", lambda r: yolo(r, config="train: none\nnames: [AC]\n"), "data.yaml, train: none is not below the folder"),
    ("yolo yaml runs a program", lambda r: yolo(r, config="names: !!python/object/apply:os.system ['true']\n"), "data.yaml, line 1: not valid YAML"),
    ("yolo yaml deep", lambda r: yolo(r, config="names: " + nested() + "\n"), "data.yaml: not valid YAML"),
    ("yolo yaml numbers are texts", lambda r: yolo(r, config="train: images\nnames: {'0': AC}\n"), AC),
    ("yolo label in UTF-16", lambda r: yolo(r, (LINE + "\r\n").encode("utf-16")), AC),
    ("yolo yaml name is no", lambda r: yolo(r, config="names: [no]\n"), "data.yaml, class 0: the class False is not a text"),
    ("yolo yaml names is a text", lambda r: yolo(r, config="names: AC\n"), "data.yaml: 'names' is missing"),
    ("yolo yaml aliases", lambda r: yolo(r, config="a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n"), "data.yaml, class 0: the class [["),
    ("yolo hostile class", lambda r: yolo(r, config="names: " + json.dumps([HOSTILE]) + "\n"), READ),
    ("yolo label is a link out", lambda r: (yolo(r), link(r / "labels" / "a.txt", r.parent / "s.txt")), "labels/a.txt is a link that leaves"),
    ("yolo label is latin-1", lambda r: (yolo(r), put(r / "labels" / "a.txt", b"\xe9")), "labels/a.txt: not a text file in UTF-8"),
    ("yolo label is a folder", lambda r: (yolo(r), (r / "labels" / "a.txt").unlink(), (r / "labels" / "a.txt").mkdir()),
     "labels/a.txt: this is a folder"),
    # SOLO
    ("solo name leaves", lambda r: solo(r, filename="../../a.png"), "capture 0: the name '../../a.png' leaves the folder"),
    ("solo image missing", lambda r: solo(r, filename="b.png"), "sequence.0/b.png: the image is missing"),
    ("solo no boxes", lambda r: solo(r, kind="Other"), [[np.nan] * 4 + [""]]),
    ("solo origin of three", lambda r: solo(r, origin=(1, 2, 3)), "capture 0: origin or dimension is not a pair"),
    ("solo origin NaN", lambda r: solo(r, origin=(float("nan"), 2)), "step0.frame_data.json: NaN is not a number"),
    ("solo class missing", lambda r: solo(r, classname=None), "capture 0: the class None is not a text"),
    ("solo deep", lambda r: solo(r, text=nested()), "step0.frame_data.json: the JSON is nested too deeply"),
    ("solo captures missing", lambda r: solo(r, text="{}"), "step0.frame_data.json: 'captures' is missing"),
    # masks of numbers, painted labels, HC18
    ("ids as JPEG", lambda r: ids(r, name="a.jpg"), "PedMasks/a.jpg: JPEG changes the numbers"),
    ("ids white on black", lambda r: ids(r, value=255), [[*BOX, "object"]]),
    ("ids mask missing", lambda r: (ids(r), put(r / "PNGImages" / "b.png")), "PNGImages/b.png: its mask is missing in PedMasks"),
    ("info.yaml is damaged", lambda r: dataset_folder(r / "a_json", "info.yaml", "label_names: ["), "a_json/info.yaml: no list label_names is in it"),
    ("info.yaml without names", lambda r: dataset_folder(r / "a_json", "info.yaml", "names: [AC]"), "a_json/info.yaml: no list label_names is in it"),
    ("ids as GIF", lambda r: ids_gif(r), [[*BOX, "object"]]),
    ("ids as GIF film", lambda r: ids_gif(r, frames=2), "PedMasks/a_mask.gif: this GIF is a film of 2 pictures"),
    ("ids as GIF cut off", lambda r: (ids_gif(r), put(r / "PedMasks/a_mask.gif", (r / "PedMasks/a_mask.gif").read_bytes()[:40])),
     "PedMasks/a_mask.gif: the image is cut off"),
    ("ids as GIF of a gigapixel", lambda r: (ids_gif(r), put(r / "PedMasks/a_mask.gif", b"GIF89a" + b"\xff" * 4 + bytes(20) + b";")),
     "PedMasks/a_mask.gif: 65535×65535 pixels"),
    ("ids without a class", lambda r: (ids(r, value=2), put(r / "classes.txt", "adult\n")), "PedMasks/a_mask.png: the value 2 has no class"),
    ("ids with classes", lambda r: (ids(r, value=1), put(r / "classes.txt", "_background_\r\nadult\r\n")), [[*BOX, "adult"]]),
    ("ids gigapixel", lambda r: (ids(r), put(r / "PedMasks" / "a_mask.png", png_header(40_000, 40_000))), "PedMasks/a_mask.png: 40000×40000"),
    ("ids mask is a link out", lambda r: (ids(r), link(r / "PedMasks" / "a_mask.png", r.parent / "s.png")), "PedMasks/a_mask.png is a link"),
    ("color gigapixel label", lambda r: (color(r), put(r / "AC/train/label/a.png", png_header(40_000, 40_000))), "AC/train/label/a.png: 40000×40000"),
    ("color image folder is a link out", lambda r: (color(r), (r / "AC/train/image").rename(r.parent / "outside"),
                                                    (r / "AC/train/image").symlink_to(r.parent / "outside")), "is a link that leaves"),
    ("color label is a folder", lambda r: (color(r), (r / "AC/train/label/a.png").unlink(), (r / "AC/train/label/a.png").mkdir()),
     "AC/train/label/a.png: this is a folder"),
    ("hc18 annotation is a link out", lambda r: (hc18(r), link(r / "training_set/000_HC_Annotation.png", r.parent / "s.png")), "is a link that leaves"),
    ("hc18 TIFF as PNG", lambda r: (hc18(r), Image.fromarray(np.full((40, 60), 9, np.uint8)).save(r / "training_set/000_HC.png", "TIFF")),
     [[*BOX, "HC"]]),
    # CSV
    ("csv latin-1", lambda r: csv(r, "name,x1,x2,y1,y2,classname\na.png,5,30,6,20,caf\xe9\n".encode("latin-1")), "boxes.csv: not a text file in UTF-8"),
    ("csv byte order mark and CRLF", lambda r: csv(r, b"\xef\xbb\xbfname,x1,x2,y1,y2,classname\r\na.png,5,30,6,20,AC\r\n"), AC),
    ("csv UTF-16 of Excel", lambda r: csv(r, "name\tx1\tx2\ty1\ty2\tclassname\r\na.png\t5\t30\t6\t20\tAC\r\n".encode("utf-16")), AC),
    ("csv UTF-16 cut off", lambda r: csv(r, "name,x1,x2,y1,y2,classname\n".encode("utf-16")[:-1]), "boxes.csv: not a text file in UTF-8"),
    ("csv names of another computer", lambda r: csv(r, "name,x1,x2,y1,y2,classname\nC:\\data\\a.png,5,30,6,20,AC\n"), AC),
    ("csv without a header", lambda r: csv(r, "a.png,5,30,6,20,AC\n"), "boxes.csv: the column 'name' is missing; the header must be"),
    ("csv with empty rows at the end", lambda r: csv(r, "name,x1,x2,y1,y2,classname\na.png,5,30,6,20,AC\n,,,,,\n\n,,,,,\n"), AC),
    ("csv with an empty row between", lambda r: csv(r, "name,x1,x2,y1,y2,classname\n,,,,,\na.png,5,30,6,20,AC\n"), "boxes.csv, row 1: the name '' is empty"),
    ("one folder too high", lambda r: (put(r / "a" / "b.txt", ""), yolo(r / "export")), "no labels found here, but export holds labels (yolo); give that folder"),
    ("csv, two of them", lambda r: (csv(r), (r / "boxes.csv").rename(r / "a.csv"), put(r / "b.csv", (r / "a.csv").read_text())),
     "2 CSV files hold boxes (a.csv, b.csv); name the one to read"),
    ("csv column twice", lambda r: csv(r, "name,x1,x2,y1,y2,classname,x1\na.png,5,30,6,20,AC,9\n"), "boxes.csv: the column 'x1' is there twice"),
    ("csv rows longer than the header", lambda r: csv(r, "name,x1,x2,y1,y2,classname\na.png,5,30,6,20,AC,\n"), "boxes.csv: not a table (the rows"),
    ("csv 1e308", lambda r: csv(r, "name,x1,x2,y1,y2,classname\na.png,5,1e308,6,20,AC\n"), "boxes.csv, row 1: x2 is '1e308', which is larger"),
    ("csv underscore", lambda r: csv(r, "name,x1,x2,y1,y2,classname\na.png,5,3_0,6,20,AC\n"), "row 1: x2 is '3_0', which is not a number"),
    ("csv class with line break", lambda r: csv(r, 'name,x1,x2,y1,y2,classname\na.png,5,30,6,20,"A\nC"\n'), "row 1: the class 'A\\nC' has a control"),
    ("csv hostile class", lambda r: csv(r, "name,x1,x2,y1,y2,classname\na.png,5,30,6,20," + '"' + HOSTILE.replace('"', '""') + '"\n'), READ),
    ("csv image is a link out", lambda r: (csv(r), link(r / "a.png", r.parent / "s.png")), "boxes.csv, row 1: a.png is a link that leaves"),
    ("csv is a folder", lambda r: (csv(r), (r / "boxes.csv").unlink(), (r / "boxes.csv").mkdir()), "boxes.csv is here; check the path"),
    # two formats
    ("voc and yolo", lambda r: (voc(r), yolo(r)), "labels of 2 formats are here (voc, yolo); name the one to read"),
    ("voc and csv", lambda r: (voc(r), csv(r)), AC),
    ("pickle is nothing", lambda r: put(r / "labels.pkl", b"cos\nsystem\n(S'true'\ntR."), "no labels found"),
]


@pytest.mark.parametrize("make, expected", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input_is_read_rightly_or_refused_in_one_sentence(tmp_path, capfd, make, expected):
    folder, out = tmp_path / "in", tmp_path / "boxes.csv"
    folder.mkdir()
    make(folder)
    code = frcnn_boxes([str(folder), "-o", str(out)])
    said, error = capfd.readouterr()
    if isinstance(expected, str):
        assert (code, said, error.count("\n"), out.exists()) == (1, "", 1, False)
        assert expected in error and str(tmp_path) not in error.replace(str(folder), "")
    else:
        assert (code, error) == (0, "")
        table = read_boxes_csv(out, resolve=False)
        expected = pd.DataFrame(expected, columns=["x1", "x2", "y1", "y2", "classname"])
        pd.testing.assert_frame_equal(table[list(expected)], expected, check_dtype=False, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- folders as the tools write them

def several(root, *names):
    for name in names:
        put(root / name)


def voc_many(root, pairs, lists=(), filename="{stem}.png"):
    "Image and XML for each pair; lists: path -> lines."
    for image, xml in pairs:
        put(root / image)
        put(root / xml, voc_xml(filename=filename.format(stem=Path(image).stem)))
    for path, lines in dict(lists).items():
        put(root / path, lines)


def coco_many(root, *files):
    "One JSON for each (path, image, file_name)."
    for path, image, name in files:
        put(root / image)
        put(root / path, {"images": [{"id": 1, "file_name": name, "width": 60, "height": 40}], "annotations": [one()],
                          "categories": [{"id": 0, "name": "things"}, {"id": 1, "name": "AC"}]})


def yolo_many(root, pairs, line=LINE, **files):
    for image, label in pairs:
        put(root / image)
        put(root / label, line + "\n")
    for name, text in files.items():
        put(root / name.replace("_", "."), text)


def hc18_many(root, folders, **files):
    for folder in folders:
        put(root / folder / "000_HC.png")
        mask = np.zeros((40, 60), np.uint8)
        mask[6:20, 5:30] = 255
        put(root / folder / "000_HC_Annotation.png", cv2.imencode(".png", mask)[1].tobytes())
    for name, text in files.items():
        put(root / name.replace("__", "/").replace("_csv", ".csv"), text)


def voc_masks(root, kinds):
    "LabelMe's export to VOC: two objects whose numbers are not those of their classes."
    put(root / "JPEGImages" / "a.png")
    put(root / "class_names.txt", "_background_\ncup\nAC")
    for kind in kinds:
        mask = np.zeros((40, 60), np.uint8)
        mask[6:20, 5:30], mask[25:35, 5:30] = (2, 1) if "Class" in kind else (1, 2)
        put(root / kind / "a.png", cv2.imencode(".png", mask)[1].tobytes())


def dataset_folder(root, names, text):
    "What labelme_json_to_dataset writes for one image."
    several(root, "img.png", "label_viz.png")
    put(root / "label.png", cv2.imencode(".png", np.pad(np.ones((14, 25), np.uint8), ((6, 20), (5, 30))))[1].tobytes())
    put(root / names, text)


def solo_two_runs(root):
    for run in ("solo", "solo_1"):
        solo(root / run)


POSE = "0 0.291666667 0.325 0.416666667 0.35 "
LAYOUTS = [  # what, how it is made, and the rows that are read: name, class, split, group
    ("VOCdevkit of two years", lambda r: voc_many(r, [(f"VOC{y}/JPEGImages/1.png", f"VOC{y}/Annotations/1.xml") for y in (2007, 2012)], {
        "VOC2007/ImageSets/Main/train.txt": "1\n", "VOC2012/ImageSets/Main/val.txt": "1\n", "VOC2007/ImageSets/Main/AC_train.txt": "1  1\n"}),
     [("VOC2007/JPEGImages/1.png", "AC", "train"), ("VOC2012/JPEGImages/1.png", "AC", "val")]),
    ("VOC part boxes", lambda r: voc(r, text=voc_xml().replace("</bndbox>", "</bndbox><part><name>head</name><bndbox><xmin>6</xmin>"
        "<ymin>7</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part><pose>Left</pose><truncated>1</truncated>")), [("JPEGImages/a.png", "AC", "")]),
    ("labelImg beside the images, filename without ending", lambda r: voc_many(r, [("a.png", "a.xml")], filename="{stem}"), [("a.png", "AC", "")]),
    ("labelImg in annotations", lambda r: voc_many(r, [("images/a.png", "annotations/a.xml")]), [("images/a.png", "AC", "")]),
    ("labelImg, a folder a patient", lambda r: (put(r / "a.png"), voc_many(r, [(f"p{n}/a.png", f"p{n}/a.xml") for n in (1, 2)])),
     [("p1/a.png", "AC", ""), ("p2/a.png", "AC", "")]),
    ("labelImg, two folders a patient", lambda r: voc_many(r, [(f"p{n}/images/a.png", f"p{n}/annotations/a.xml") for n in (1, 2)]),
     [("p1/images/a.png", "AC", ""), ("p2/images/a.png", "AC", "")]),
    ("CVAT VOC with folders", lambda r: voc_many(r, [(f"JPEGImages/{n}/1.png", f"Annotations/{n}/1.xml") for n in "ab"], {
        "ImageSets/Main/Train.txt": "a/1\n", "ImageSets/Main/Validation.txt": "b/1\n", "labelmap.txt": "# label:color_rgb:parts:actions\n"}),
     [("JPEGImages/a/1.png", "AC", "train"), ("JPEGImages/b/1.png", "AC", "val")]),
    ("Oxford pets", lambda r: (voc_many(r, [("images/a.png", "annotations/xmls/a.xml")]), several(r, "annotations/trimaps/a.png")),
     [("images/a.png", "AC", "")]),
    ("Roboflow VOC", lambda r: voc_many(r, [(f"{s}/a.png", f"{s}/a.xml") for s in ("train", "valid")]),
     [("train/a.png", "AC", "train"), ("valid/a.png", "AC", "val")]),
    ("VOC after both files were renamed", lambda r: (several(r, "b.png"), voc_many(r, [("a.png", "a.xml")], filename="b.png")), [("a.png", "AC", "")]),
    ("VOC beside a project of an editor", lambda r: (voc(r), put(r / ".idea" / "a.xml", "<project/>"), put(r / "pom.xml", "<project/>")),
     [("JPEGImages/a.png", "AC", "")]),
    ("CVAT COCO with subsets", lambda r: coco_many(r, *[(f"annotations/instances_{s}.json", f"images/{s}/a.png", "a.png") for s in ("Train", "Validation")]),
     [("images/Train/a.png", "AC", "train"), ("images/Validation/a.png", "AC", "val")]),
    ("CVAT COCO without", lambda r: coco_many(r, ("annotations/instances_default.json", "images/default/s/a.png", "s/a.png")), [("images/default/s/a.png", "AC", "")]),
    ("Roboflow COCO", lambda r: coco_many(r, *[(f"{s}/_annotations.coco.json", f"{s}/a.png", "a.png") for s in ("train", "valid", "test")]),
     [("test/a.png", "AC", "test"), ("train/a.png", "AC", "train"), ("valid/a.png", "AC", "val")]),
    ("COCO with a folder a split", lambda r: coco_many(r, *[(f"{s}/annotations.json", f"{s}/images/a.png", "a.png") for s in ("train", "val")]),
     [("train/images/a.png", "AC", "train"), ("val/images/a.png", "AC", "val")]),
    ("Label Studio COCO from Windows", lambda r: coco_many(r, ("result.json", "images/1f-a.png", "images\\1f-a.png")), [("images/1f-a.png", "AC", "")]),
    ("COCO with detections beside", lambda r: (coco(r), put(r / "annotations/instances_train_results.json", [{"image_id": 1, "category_id": 1,
        "bbox": XYWH, "score": 0.5}])), [("images/a.png", "AC", "train")]),
    ("COCO called latest", lambda r: coco_many(r, ("latest.json", "a.png", "a.png")), [("a.png", "AC", "")]),
    ("LabelMe, stale path, image beside", lambda r: labelme(r, imagePath="..\\raw\\a.png"), [("a.png", "AC", "")]),
    ("LabelMe, stale path, image inside", lambda r: (labelme(r, imagePath="C:\\x\\a.png", imageData=PICTURE), (r / "a.png").unlink()), [("a.json", "AC", "")]),
    ("LabelMe, equal names", lambda r: (put(r / "a.png"), labelme(r / "p1"), labelme(r / "p2")), [("p1/a.png", "AC", ""), ("p2/a.png", "AC", "")]),
    ("LabelMe of version 3", lambda r: labelme(r, {"label": "AC", "line_color": None, "points": [[5, 6], [30, 6], [30, 20]]}, lineColor=[0, 255, 0, 128]),
     [("a.png", "AC", "")]),
    ("X-AnyLabeling", lambda r: labelme(r, shape(shape_type="rotation", points=[[5, 10], [20, 6], [30, 16], [15, 20]])), [("a.png", "AC", "")]),
    ("Roboflow YOLO without val and test", lambda r: yolo_many(r, [("train/images/a.png", "train/labels/a.txt")],
        data_yaml="train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['AC']\n"), [("train/images/a.png", "AC", "train")]),
    ("YOLO with a path of another computer", lambda r: yolo_many(r, [("images/val/a.png", "labels/val/a.txt")],
        data_yaml="path: /content/ds\nval: /content/ds/images/val\nnames: {0: AC}\n"), [("images/val/a.png", "AC", "val")]),
    ("YOLO pose", lambda r: yolo_many(r, [("images/a.png", "labels/a.txt")], POSE + "0.2 0.3 2 " * 17, data_yaml="train: images\nkpt_shape: [17, 3]\nnames: [AC]\n"),
     [("images/a.png", "AC", "train")]),
    ("YOLO pose of points without visibility", lambda r: yolo_many(r, [("images/a.png", "labels/a.txt")], POSE + "0.2 0.3 " * 5,
        data_yaml="train: images\nkpt_shape: [5, 2]\nnames: [AC]\n"), [("images/a.png", "AC", "train")]),
    ("YOLO pose without its shape", lambda r: yolo_many(r, [("images/a.png", "labels/a.txt")], POSE + "0.2 0.3 2 " * 4, classes_txt="AC\n"), [("images/a.png", "AC", "")]),
    ("YOLO tracks", lambda r: yolo_many(r, [("images/a.png", "labels/a.txt")], LINE + " 17", classes_txt="AC\n"), [("images/a.png", "AC", "")]),
    ("labelImg YOLO", lambda r: yolo_many(r, [("a.png", "a.txt")], classes_txt="AC\n"), [("a.png", "AC", "")]),
    ("CVAT YOLO 1.1", lambda r: yolo_many(r, [("obj_train_data/s/a.png", "obj_train_data/s/a.txt")], train_txt="data/obj_train_data/s/a.png\n",
        obj_names="AC\n", obj_data="classes = 1\ntrain = data/train.txt\n"), [("obj_train_data/s/a.png", "AC", "train")]),
    ("CVAT YOLO for Ultralytics", lambda r: yolo_many(r, [("images/train/a.png", "labels/train/a.txt")], train_txt="data/images/train/a.png\n",
        data_yaml="path: ./\ntrain: train.txt\nnames:\n  0: AC\n"), [("images/train/a.png", "AC", "train")]),
    ("HC18 as published", lambda r: (several(r, "test_set/000_HC.png", "unlabelled_set/000_HC.png"), hc18_many(r, ["training_set"],
        unlabelled_set_pixel_size_csv="filename,pixel size(mm)\n000_HC.png,0.8\n",
        test_set_pixel_size_csv="filename,pixel size(mm)\n000_HC.png,0.9\n",
        training_set_pixel_size_and_HC_csv="filename,pixel size(mm),head circumference (mm)\n000_HC.png,0.25,44\n")), [("training_set/000_HC.png", "HC", "", "000", 0.25)]),
    ("HC18 of two clinics", lambda r: hc18_many(r, ["A", "B"], A__s_csv="filename,pixel size(mm)\n000_HC.png,0.25\n",
        s_csv="filename,pixel size(mm)\nB/000_HC.png,0.5\n"), [("A/000_HC.png", "HC", "", "A/000", 0.25), ("B/000_HC.png", "HC", "", "B/000", 0.5)]),
    ("masks in folders of splits", lambda r: (put(r / "images/train/a.png"), put(r / "masks/train/a.png", cv2.imencode(".png", np.pad(
        np.full((14, 25), 9, np.uint8), ((6, 20), (5, 30))))[1].tobytes())), [("images/train/a.png", "object", "train")]),
    ("LabelMe to VOC, objects", lambda r: voc_masks(r, ["SegmentationObject", "SegmentationClass"]), [("JPEGImages/a.png", "AC", ""), ("JPEGImages/a.png", "cup", "")]),
    ("LabelMe to VOC, classes", lambda r: voc_masks(r, ["SegmentationClass"]), [("JPEGImages/a.png", "cup", ""), ("JPEGImages/a.png", "AC", "")]),
    ("labelme_json_to_dataset, names in info.yaml", lambda r: dataset_folder(r / "a_json", "info.yaml", "label_names:\n- _background_\n- AC\n"),
     [("a_json/img.png", "AC", "")]),
    ("labelme_json_to_dataset -o out", lambda r: dataset_folder(r / "out", "label_names.txt", "_background_\nAC\n"), [("out/img.png", "AC", "")]),
    ("labelme_json_to_dataset, the folder itself", lambda r: dataset_folder(r, "label_names.txt", "_background_\nAC\n"), [("img.png", "AC", "")]),
    ("pic and cv2_mask of a tutorial", lambda r: (ids(r), (r / "PNGImages").rename(r / "pic"), (r / "PedMasks").rename(r / "cv2_mask")), [("pic/a.png", "object", "")]),
    ("labelme2voc of LabelMe 4", lambda r: (voc_masks(r, ["SegmentationObjectPNG", "SegmentationClassPNG"]), several(r, "SegmentationObjectVisualization/a.jpg"),
        [put(r / f"Segmentation{kind}/a.npy", b"\x93NUMPY") for kind in ("Object", "Class")]), [("JPEGImages/a.png", "AC", ""), ("JPEGImages/a.png", "cup", "")]),
    ("Penn-Fudan with its texts", lambda r: (ids(r), put(r / "Annotation/a.txt", "# Compatible with PASCAL"), put(r / "readme.txt", "x")), [("PNGImages/a.png", "object", "")]),
    ("LVIS", lambda r: (put(r / "train2017/a.png"), put(r / "lvis_v1_val.json", {"categories": [{"id": 1, "name": "AC"}], "annotations": [one()], "images": [
        {"id": 1, "coco_url": "http://images.cocodataset.org/train2017/a.png", "width": 60, "height": 40}]})), [("train2017/a.png", "AC", "val")]),
    ("COCO of another computer", lambda r: (put(r / "val2017/a.png"), coco_many(r, ("annotations/instances_train.json", "train2017/a.png", "/home/me/coco/train2017/a.png"))),
     [("train2017/a.png", "AC", "train")]),
    ("SOLO of two runs", solo_two_runs, [(f"{run}/sequence.0/step0.camera.png", "AC", "", f"{run}/sequence.0") for run in ("solo", "solo_1")]),
    ("CSV of Excel", lambda r: csv(r, b"\xef\xbb\xbfClassName;Note;Y2;Y1;X2;X1;Name\r\nAC;hello;20,0;6;30;5;a.png\r\n"), [("a.png", "AC", "")]),
    ("Roboflow CSV", lambda r: [(put(r / s / "a.png"), put(r / s / "_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,60,40,AC,5,6,30,20\n"))
        for s in ("train", "valid")], [("train/a.png", "AC", "train"), ("valid/a.png", "AC", "val")]),
    ("CSV of another computer", lambda r: (several(r, "images/a.png", "old/a.png"), put(r / "labels.csv", "image_path,label,x_min,y_min,x_max,y_max\n"
        "/home/me/images/a.png,AC,5,6,30,20\n")), [("images/a.png", "AC", "")]),
    ("CSV of TensorFlow", lambda r: csv(r, "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,60,40,AC,5,6,30,20\n"), [("a.png", "AC", "")]),
]


@pytest.mark.parametrize("make, rows", [case[1:] for case in LAYOUTS], ids=[case[0] for case in LAYOUTS])
def test_folders_as_other_tools_write_them(tmp_path, make, rows):
    make(tmp_path)
    table = read_boxes(tmp_path)
    assert table[["name", "classname", "split", "group", "pixel_size"]].apply(tuple, axis=1).map(lambda row: row[: len(rows[0])]).tolist() == rows
    boxes = table[["x1", "x2", "y1", "y2"]].to_numpy().tolist()
    assert boxes[0] == BOX or "cup" in {row[1] for row in rows} and BOX in boxes
    assert check_boxes(table, tmp_path)[1]["severity"].ne("error").all() or len(rows) > 1


@pytest.mark.parametrize("make, words", [
    (lambda r: yolo(r, POSE + "0.2 0.3 2 0.1 0.1 2\n"), "1 lines have key points"),
    (lambda r: yolo(r, LINE + " 1\n" + LINE + " 8\n"), "2 lines end in the number of a track"),
    (lambda r: yolo(r, config="train: images\nval: valid/images\nnames: [AC]\n"), "images of val (valid/images) are not below"),
    (lambda r: yolo(r, config="train: images\nval: ../valid/images\nnames: [AC]\n"), "images of val (../valid/images) are not below"),
    (lambda r: yolo(r, config="train: images\nval: images\nnames: [AC]\n"), "1 images of val are also in train"),
    (lambda r: coco(r, images=[{"id": 1, "file_name": "C:\\me\\images\\a.png"}]), "1 names of images lead out of the folder, like 'C:"),
    (lambda r: (put(r / "JPEGImages/b.png"), voc(r, filename="b.png")), "Annotations/a.xml names the image 'b.png'")])
def test_what_is_not_read_of_a_folder_is_said(tmp_path, make, words):
    make(tmp_path)
    assert words in " ".join(note["problem"] for note in read_boxes(tmp_path).attrs["findings"])


def test_the_exam_is_read_from_the_name_or_the_path(tmp_path, capfd):
    solo_two_runs(tmp_path / "in")
    assert read_boxes(tmp_path / "in", group_pattern=r"(solo\w*)/")["group"].tolist() == ["solo", "solo_1"]
    assert frcnn_boxes([str(tmp_path / "in"), "--group-pattern", "^solo", "-o", str(tmp_path / "b.csv")]) == 0
    assert read_boxes_csv(tmp_path / "b.csv", resolve=False)["group"].tolist() == ["solo", "solo"]
    with pytest.raises(SystemExit):
        frcnn_boxes([str(tmp_path / "in"), "--group-pattern", "(", "-o", str(tmp_path / "c.csv")])
    assert "'(' is not a regular expression" in capfd.readouterr().err


def test_images_inside_labelme_can_be_checked_and_written_as_coco(tmp_path, capfd):
    for name in "ab":
        labelme(tmp_path / "in" / name, imageData=PICTURE)
        (tmp_path / "in" / name / "a.png").unlink()
    assert frcnn_boxes([str(tmp_path / "in"), "--check", "--to", "coco", "-o", str(tmp_path / "coco")]) == 0
    assert "the image: every pixel has the value 90" in capfd.readouterr().out
    table = read_boxes(tmp_path / "coco")
    assert table["name"].tolist() == ["a/a.png", "b/a.png"] and table[["x1", "x2", "y1", "y2"]].to_numpy().tolist() == [BOX, BOX]
    assert read_image(tmp_path / "coco" / "b" / "a.png").shape == (40, 60, 3)
    write_boxes(read_boxes(tmp_path / "in"), tmp_path / "in", tmp_path / "csv", "csv", copy_images=True)
    assert read_boxes(tmp_path / "csv")["name"].tolist() == ["a/a.png", "b/a.png"]


@pytest.mark.parametrize("format", ["yolo", "voc", "labelme"])
def test_a_size_that_lies_is_not_written(tmp_path, format):
    coco(tmp_path / "in", images=[{"id": 1, "file_name": "a.png", "width": 640, "height": 480}])
    notes = write_boxes(read_boxes(tmp_path / "in"), tmp_path / "in", tmp_path / "out", format)
    assert [note["problem"][:29] for note in notes] == ["1 images have another size th"]
    back = read_boxes(tmp_path / "out")
    np.testing.assert_allclose(back[["x1", "x2", "y1", "y2"]].to_numpy(), [BOX], atol=1e-6)
    assert back[["width", "height"]].to_numpy().tolist() == [[60, 40]] and back.attrs["findings"] == []


BROKEN = [  # a whole folder, what is broken beside it, and the finding
    (voc, {"JPEGImages/b.png": None, "Annotations/b.xml": "<annotation>"}, "Annotations/b.xml: not valid XML"),
    (voc, {"JPEGImages/b.png": b"", "Annotations/b.xml": voc_xml(filename="b.png")}, "JPEGImages/b.png: the file is empty"),
    (labelme, {"b.png": None, "b.json": {"shapes": [shape(points=[[1, 2]])]}}, "b.json: shape 0: a rectangle of 1 points cannot be"),
    (yolo, {"images/b.png": None, "labels/b.txt": "0 1\n"}, "labels/b.txt: line 1: 2 values"),
    (solo, {"sequence.1/step0.frame_data.json": "{"}, "sequence.1/step0.frame_data.json: line 1, column 2: not valid JSON"),
    (ids, {"PNGImages/b.png": None}, "PNGImages/b.png: its mask is missing"),
    (ids, {"PNGImages/b.png": None, "PedMasks/b.png": b"no"}, "PedMasks/b.png: not readable as an image"),
    (color, {"AC/train/label/b.png": None}, "AC/train/label/b.png: its image is missing"),
    (color, {"AC/train/label/b.png": None, "AC/train/image/b.png": None}, "AC/train/label/b.png: no painted pixel"),
    (hc18, {"training_set/001_HC_Annotation.png": None}, "training_set/001_HC.png: the image is missing"),
    (csv, {"boxes.csv": "name,x1,x2,y1,y2,classname\na.png,5,30,6,20,AC\nb.png,5,30,6,20,AC\n"}, "b.png, row 2: the image is missing"),
    (lambda r: coco(r, one(), one(id=2, image_id=2), images=[{"id": 2, "file_name": "b.png"}, {"id": 1, "file_name": "a.png"}]), {},
     "b.png, row 1: the image is missing"),
]


@pytest.mark.parametrize("make, files, words", BROKEN)
def test_one_broken_file_does_not_hide_the_others_from_the_check(tmp_path, capfd, make, files, words):
    folder = tmp_path / "in"
    make(folder)
    for path, content in files.items():
        put(folder / path, content)
    assert frcnn_boxes([str(folder), "-o", str(tmp_path / "boxes.csv")]) == 1 and not (tmp_path / "boxes.csv").exists()
    capfd.readouterr()
    assert frcnn_boxes([str(folder), "--check"]) == 1
    out = capfd.readouterr().out
    assert f"error    {words}" in out and ": 1 errors," in out
    assert frcnn_boxes([str(folder), "--fix", "-o", str(tmp_path / "boxes.csv")]) == 0
    assert f"error    {words}" in capfd.readouterr().out
    assert read_boxes_csv(tmp_path / "boxes.csv", resolve=False)[["x1", "x2", "y1", "y2"]].to_numpy().tolist() == [BOX]


def test_there_are_enough_cases():
    assert len(CASES) >= 60 and len({case[0] for case in CASES}) == len(CASES)


# ---------------------------------------------------------------- writers and round trips

def comparable(table: pd.DataFrame, drop=()) -> pd.DataFrame:
    table = table.assign(name=[Path(name).name for name in table["name"]])
    columns = [*BOX_COLUMNS, "split", "group", "width", "height", "pixel_size"]
    return table[[column for column in columns if column not in drop]].sort_values(["name", "x1", "y1"], ignore_index=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    "The sample in every format that can be written."
    root = tmp_path_factory.mktemp("written")
    table = read_boxes(SAMPLE)
    for format in WRITERS:
        write_boxes(table, SAMPLE, root / format, format, copy_images=True)
    return root


@pytest.mark.parametrize("first, second", list(itertools.permutations(WRITERS, 2)))
def test_every_pair_of_formats_keeps_the_table(written, tmp_path, first, second):
    table = read_boxes(written / first, format=first)
    write_boxes(table, written / first, tmp_path / "out", second, copy_images=True)
    back = read_boxes(tmp_path / "out", format=second)
    lost = ["group", "pixel_size"] if {"voc", "yolo"} & {first, second} else []
    pd.testing.assert_frame_equal(comparable(back, lost), comparable(read_boxes(SAMPLE), lost), check_dtype=False)


@pytest.mark.parametrize("format", WRITERS)
def test_a_format_written_from_itself_is_the_same_table(written, tmp_path, format):
    table = read_boxes(written / format, format=format)
    assert write_boxes(table, written / format, tmp_path / "again", format, copy_images=True) == []
    pd.testing.assert_frame_equal(read_boxes(tmp_path / "again", format=format), table, check_exact=True)


def full_table(root: Path) -> pd.DataFrame:
    "Two images with everything that a table can hold."
    for name in ("one/a.png", "two/a.png", "two/b.png"):
        put(root / name)
    polygon = json.dumps([[5, 6, 30.5, 6, 30.5, 20, 5, 20]])
    return boxes_table([
        {"name": "one/a.png", "x1": 5, "x2": 30.5, "y1": 6, "y2": 20, "classname": HOSTILE, "score": 0.5, "difficult": 1,
         "segmentation": polygon, "iscrowd": 1, "note": "x"},
        {"name": "one/a.png", "x1": 1 / 3, "x2": 2 / 3, "y1": 6, "y2": 6, "classname": "AC", "score": 0.25, "difficult": 0,
         "segmentation": json.dumps(RLE), "iscrowd": 0, "note": ""},
        {"name": "two/a.png", "classname": "", "segmentation": "", "iscrowd": 0, "difficult": 0, "note": ""}],
    ).assign(group="patient 7", pixel_size=0.125, split="test", width=60, height=40)


LOST = {"csv": [], "coco": ["difficult", "note"], "voc": ["group", "pixel_size", "score", "segmentation", "iscrowd", "note"],
        "yolo": ["group", "pixel_size", "segmentation", "difficult", "iscrowd", "note"],
        "labelme": ["score", "difficult", "iscrowd", "note"]}


@pytest.mark.parametrize("format", WRITERS)
def test_what_a_format_cannot_hold_is_said_and_the_rest_is_kept(tmp_path, format):
    table = full_table(tmp_path / "in")
    notes = " ".join(one["problem"] for one in write_boxes(table, tmp_path / "in", tmp_path / "out", format))
    for column in LOST[format]:
        words = {"segmentation": "segmentation"}.get(column, f"{format} has no place for {column}:")
        assert words in notes, column
    options = {"root": tmp_path / "in"} if format in ("csv", "coco") else {}
    back = read_boxes(tmp_path / "out", format=format, **options).sort_values(["classname", "x1"], ignore_index=True)
    table = table.sort_values(["classname", "x1"], ignore_index=True)
    kept = [column for column in table if column not in [*LOST[format], "name"]]
    if format == "labelme":
        kept.remove("segmentation")  # the polygon is kept, the run lengths are not, and that is said
        assert json.loads(back["segmentation"][2] or back["segmentation"][1]) and "1 segmentations are not polygons" in notes
    if format == "yolo":
        assert "1 boxes are rounded to a millionth of a pixel" in notes
    pd.testing.assert_frame_equal(back[kept], table[kept], check_dtype=False, atol=1e-6 if format == "yolo" else 0, rtol=0)


def test_images_of_one_bare_name_do_not_meet(tmp_path):
    table = full_table(tmp_path / "in")
    write_boxes(table, tmp_path / "in", tmp_path / "out", "voc")
    assert sorted(path.name for path in (tmp_path / "out" / "JPEGImages").iterdir()) == ["one__a.png", "two__a.png"]


def test_labels_alone_when_images_are_not_copied(tmp_path):
    write_boxes(read_boxes(SAMPLE), SAMPLE, tmp_path / "out", "yolo", copy_images=False)
    assert not list((tmp_path / "out").glob("images/**/*.png")) and len(list((tmp_path / "out").glob("labels/*/*.txt"))) == 24


@pytest.mark.parametrize("change, words", [
    ({"x2": np.nan}, "row 1 (one/a.png): it is not a whole box"), ({"x2": -5}, "corners are in the wrong order"),
    ({"y2": np.inf}, "not a whole box"), ({"split": "night"}, "'night' is not a split"),
    ({"classname": "A\0"}, "control character"), ({"name": "../a.png"}, "leaves the folder")])
def test_a_row_that_cannot_be_written_is_named_and_nothing_is_written(tmp_path, change, words):
    table = full_table(tmp_path / "in").iloc[:1].assign(**change)
    for format in WRITERS:
        with pytest.raises(ValueError) as error:
            write_boxes(table, tmp_path / "in", tmp_path / "out", format)
        assert words in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_existing_folder_is_never_written_into(tmp_path):
    table = full_table(tmp_path / "in")
    put(tmp_path / "out" / "mine.txt", "precious")
    for format in WRITERS:
        with pytest.raises(FileExistsError, match="name a new one"):
            write_boxes(table, tmp_path / "in", tmp_path / "out", format)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_image_inside_labelme_is_taken_out(tmp_path):
    labelme(tmp_path / "in", imageData=PICTURE)
    (tmp_path / "in" / "a.png").unlink()
    table = read_boxes(tmp_path / "in")
    assert table["name"].tolist() == ["a.json"]
    write_boxes(table, tmp_path / "in", tmp_path / "out", "voc")
    assert read_image(tmp_path / "out" / "JPEGImages" / "a.png").shape == (40, 60, 3)
    assert read_boxes(tmp_path / "out")[["x1", "x2", "y1", "y2"]].to_numpy().tolist() == [BOX]


def test_shell_converts_and_says_what_is_lost(tmp_path, capfd):
    assert frcnn_boxes([str(SAMPLE), "--to", "yolo", "-o", str(tmp_path / "y")]) == 0
    out = capfd.readouterr().out
    assert "format: color (also here, not read: mask, csv)" in out and "yolo has no place for pixel_size: 24 values" in out
    assert len(read_boxes(tmp_path / "y")) == 24
    assert frcnn_boxes([str(SAMPLE), "--to", "voc", "-o", str(tmp_path / "y")]) == 1
    assert "it exists and is not an empty folder" in capfd.readouterr().err


# ---------------------------------------------------------------- shapes and masks

def test_segmentations_of_all_formats_give_the_same_pixels(tmp_path):
    expected = np.zeros((40, 60), bool)
    expected[6:20, 5:30] = True
    labelme(tmp_path / "labelme", shape(shape_type="polygon", points=np.reshape(POLYGON, (-1, 2)).tolist()))
    labelme(tmp_path / "mask", MASK)
    coco(tmp_path / "polygon", one(segmentation=[POLYGON]))
    coco(tmp_path / "rle", one(segmentation=RLE, bbox=None))
    yolo(tmp_path / "yolo", "0 " + " ".join(str(v / s) for v, s in zip(POLYGON, [60, 40] * 4)))
    ids(tmp_path / "ids")
    for folder in tmp_path.iterdir():
        row = read_boxes(folder).iloc[0]
        assert row[["x1", "x2", "y1", "y2"]].tolist() == BOX, folder.name
        np.testing.assert_array_equal(segmentation_mask(row, folder), expected, err_msg=folder.name)


def test_white_masks_of_the_sample_are_segmentations():
    row = read_masks(SAMPLE).iloc[0]
    pixels = segmentation_mask(row, SAMPLE)
    ys, xs = np.nonzero(pixels)
    assert [xs.min(), xs.max() + 1, ys.min(), ys.max() + 1] == row[["x1", "x2", "y1", "y2"]].tolist()


def test_labelme_export_has_one_numbering_and_reads_back(tmp_path):
    labelme(tmp_path / "in", shape(label="cup"), shape(label="ball", shape_type="circle", points=[[45, 20], [45, 30]]), MASK,
            shape(label="cup", shape_type="point", points=[[50, 35]]), shape(label="line", shape_type="line", points=[[3, 30], [20, 38]]))
    labelme_to_masks(tmp_path / "in", tmp_path / "out")
    place = tmp_path / "out" / "a_json"
    assert (place / "label_names.txt").read_text().split() == ["_background_", "AC", "ball", "cup", "line"]
    label = Image.open(place / "label.png")
    assert label.mode == "P" and label.getpixel((45, 20)) == 2 and label.getpixel((10, 10)) == 1 and label.getpixel((0, 0)) == 0
    assert label.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    table = read_boxes(tmp_path / "out", min_area=1).set_index("classname")
    assert table.loc["ball", ["x1", "x2", "y1", "y2"]].tolist() == [35, 56, 10, 31]  # 45 ± 10 and 20 ± 10, ends included
    assert find_formats(tmp_path / "out") == ["ids"]


@pytest.mark.parametrize("turn, stated", [(6, True), (8, True), (3, True), (6, False)])
def test_points_on_a_photo_that_exif_turns_are_turned_back(tmp_path, turn, stated):
    upright = np.zeros((60, 40, 3), np.uint8)
    upright[8:24, 16:32] = 255  # whole blocks of JPEG, so that the edges stay sharp
    upright[8:16, 16:24] = 128
    stored = Image.fromarray(np.rot90(upright, {3: 2, 6: 1, 8: 3}[turn]))
    exif = stored.getexif()
    exif[0x0112] = turn
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    np.testing.assert_allclose(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")), upright, atol=12)
    size = {"imageWidth": 40, "imageHeight": 60} if stated else {}
    square = shape(shape_type="polygon", points=[[16, 8], [32, 8], [32, 24], [16, 24]])
    put(tmp_path / "a.json", {"imagePath": "a.jpg", "shapes": [square, shape(label="FL", points=[[24, 16], [16, 8]])], **size})
    table = read_boxes(tmp_path)
    image = read_image(tmp_path / "a.jpg", grayscale=True)
    for _, row in table.iterrows():
        part = image[int(row.y1):int(row.y2), int(row.x1):int(row.x2)]
        assert part.shape == {"AC": (16, 16), "FL": (8, 8)}[row.classname] and part.min() > 100 and (part.max() < 160) == (row.classname == "FL")
    assert segmentation_mask(table.iloc[0], tmp_path)[image > 100].mean() > 0.9
    assert [note["problem"][:29] for note in table.attrs["findings"]] == ["its photo is turned by EXIF ("]
    labelme_to_masks(tmp_path, tmp_path / "out")
    label = np.asarray(Image.open(tmp_path / "out" / "a_json" / "label.png"))
    assert (label[image > 100] > 0).all() and label.shape == image.shape


def test_points_that_fit_the_stored_photo_are_left(tmp_path):
    picture = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    put(tmp_path / "a.json", {"imagePath": "a.jpg", "imageWidth": 60, "imageHeight": 40, "shapes": [shape()]})
    assert read_boxes(tmp_path)[["x1", "x2", "y1", "y2"]].to_numpy().tolist() == [BOX]
    put(tmp_path / "a.json", {"imagePath": "a.jpg", "imageWidth": 40, "imageHeight": 60, "shapes": [MASK]})
    with pytest.raises(ValueError, match="a.json, shape 0: its mask belongs to a photo that EXIF turns"):
        read_boxes(tmp_path)


def test_crowds_and_difficult_objects_are_said(tmp_path):
    coco(tmp_path, one(), one(id=2, iscrowd=1))
    table = read_boxes(tmp_path)
    assert table["iscrowd"].tolist() == [0, 1] and "1 annotations are crowds" in table.attrs["findings"][0]["problem"]


def test_splits_come_from_folders_and_files(tmp_path):
    for split, word in [("train", "train2017"), ("val", "val2017")]:
        put(tmp_path / word / "a.png")
        put(tmp_path / "annotations" / f"instances_{word}.json", {
            "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}], "annotations": [one()],
            "categories": [{"id": 1, "name": split}]})
    assert read_boxes(tmp_path)[["name", "split", "classname"]].to_numpy().tolist() == [
        ["train2017/a.png", "train", "train"], ["val2017/a.png", "val", "val"]]


def test_coco_of_the_reference_numbers(real):
    table = read_coco(real / "golden_ap" / "instances_val2014_100.json", resolve=False)
    content = json.loads((real / "golden_ap" / "instances_val2014_100.json").read_text())
    assert len(table[table["classname"] != ""]) == len(content["annotations"])
    assert table["name"].nunique() == len(content["images"])
    assert table["iscrowd"].sum() == sum(one["iscrowd"] for one in content["annotations"])


@pytest.mark.parametrize("format", ["voc", "coco", "yolo", "labelme"])
def test_real_cells_in_all_formats(real, tmp_path, format):
    table = read_boxes(real / "bccd")
    write_boxes(table, real / "bccd", tmp_path / "out", format, copy_images=format != "coco")
    back = read_boxes(tmp_path / "out", **({"root": real / "bccd"} if format == "coco" else {}))
    pd.testing.assert_frame_equal(comparable(back, ["group"]), comparable(table, ["group"]), check_dtype=False)


def test_every_format_has_its_row_in_detection():
    assert list(FORMATS)[-1] == "csv" and set(WRITERS) < set(FORMATS)


def test_no_reader_imports_pickle():
    for module in ("labels", "formats"):
        text = (Path(__file__).resolve().parents[1] / "frcnn_nbdev" / f"{module}.py").read_text()
        assert "pickle" not in text and "allow_pickle" not in text and "yaml.load" not in text
