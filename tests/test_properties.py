"Properties that hold for any input: readers, writers and the arithmetic of boxes (hypothesis, the same examples each run)."
import json
import math
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from frcnn_nbdev.boxes import box_area, box_convert, clip_boxes_to_image, decode_boxes, encode_boxes
from frcnn_nbdev.formats import WRITERS, _rle_text, read_boxes, rle_counts, write_boxes
from frcnn_nbdev.labels import boxes_table, id_boxes, inside_folder, read_boxes_csv, to_number, write_boxes_csv

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=25, database=None,
                          suppress_health_check=list(HealthCheck))
settings.load_profile("fixed")

SIZES = {"a.png": (40, 60), "b.png": (7, 300), "c.png": (128, 33)}  # (height, width)
readable = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")
classnames = st.text(readable, min_size=1, max_size=12).filter(lambda text: text.strip())
fractions = st.floats(0, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, size in SIZES.items():
        assert cv2.imwrite(str(folder / name), np.zeros(size, np.uint8))
    return folder


@st.composite
def tables(draw, names=classnames):
    "Boxes tables of the three images: any boxes inside them, any classes, any splits; images without objects too."
    records = []
    for name, (height, width) in SIZES.items():
        base = {"name": name, "height": height, "width": width, "split": draw(st.sampled_from(["", "train", "val", "test"])),
                "group": draw(st.sampled_from([name[0], "patient 1"])), "pixel_size": draw(st.sampled_from([math.nan, 0.1, 1 / 3]))}
        boxes = draw(st.lists(st.tuples(fractions, fractions, fractions, fractions, names), max_size=3))
        for x1, x2, y1, y2, classname in boxes:
            (x1, x2), (y1, y2) = sorted((x1 * width, x2 * width)), sorted((y1 * height, y2 * height))
            records.append({**base, "x1": x1, "x2": x2, "y1": y1, "y2": y2, "classname": classname})
        if not boxes:
            records.append({**base, "classname": ""})
    return boxes_table(records)


def ordered(table):
    table = table.assign(name=[Path(name).name for name in table["name"]])
    return table.sort_values("name", kind="stable", ignore_index=True)


@pytest.mark.parametrize("format", WRITERS)
@given(table=tables())
def test_a_written_table_comes_back(root, format, table):
    with tempfile.TemporaryDirectory() as folder:
        notes = write_boxes(table, root, Path(folder) / "out", format, copy_images=True)
        back = read_boxes(Path(folder) / "out", format=format)
    lost = ["group", "pixel_size"] if format in ("voc", "yolo") else []
    said = " ".join(one["problem"] for one in notes)
    kept = [column for column in table if column not in lost]
    exact = format != "yolo" and "last bit" not in said
    pd.testing.assert_frame_equal(ordered(back)[kept], ordered(table)[kept], check_dtype=False, rtol=0, atol=0 if exact else 2e-6)
    if lost and table["pixel_size"].notna().any():
        assert "no place for pixel_size" in said


@given(table=tables(names=st.text(max_size=6)))
@example(table=boxes_table([{"name": "a.png", "x1": 1, "x2": 2, "y1": 1, "y2": 2, "classname": " a,\"b\" ", "split": ""}]))
def test_any_class_name_is_kept_or_refused(root, table):
    for format in WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                write_boxes(table, root, Path(folder) / "out", format, copy_images=True)
            except ValueError as error:
                assert "class" in str(error) and list(Path(folder).iterdir()) == []
                continue
            back = read_boxes(Path(folder) / "out", format=format)
        assert ordered(back)["classname"].tolist() == ordered(table)["classname"].tolist()


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 4), min_size=1, max_size=5), st.lists(classnames, min_size=5, max_size=5))
def test_csv_keeps_every_bit(boxes, names):
    table = boxes_table([{"name": f"{at}.png", "x1": a, "x2": b, "y1": c, "y2": d, "classname": name, "score": a / 3}
                         for at, ((a, b, c, d), name) in enumerate(zip(boxes, names, strict=False))])
    with tempfile.TemporaryDirectory() as folder:
        back = read_boxes_csv(write_boxes_csv(table, Path(folder) / "boxes.csv"), resolve=False)
    pd.testing.assert_frame_equal(back.drop(columns=["width", "height"]), table.drop(columns=["width", "height"]), check_exact=True)


@settings(max_examples=200)
@given(st.text(max_size=20) | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "C:", "", "~"]), max_size=6).map("/".join))
def test_a_checked_name_never_leaves_the_folder(tmp_path_factory, name):
    folder = Path(tempfile.gettempdir()) / "frcnn_any"
    try:
        path = inside_folder(folder, name, "x")
    except ValueError as error:
        assert str(error).startswith("x: ") and "\n" not in str(error)
    else:
        assert (folder / path).resolve().is_relative_to(folder.resolve()) and path != "."


@settings(max_examples=200)
@given(st.text(max_size=8) | st.floats().map(str) | st.integers().map(str) | st.none() | st.booleans() | st.floats() | st.integers())
def test_a_number_is_finite_and_plain_or_refused(value):
    try:
        number = to_number(value, "x")
    except ValueError as error:
        assert str(error).startswith("x is ") and "\n" not in str(error)
    else:
        assert type(number) is float and abs(number) <= 2**31 and number == float(value)


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_run_lengths_are_those_of_the_mask(height, width, seed):
    pixels = np.random.default_rng(seed).random((height, width)) < 0.5
    counts = rle_counts(json.loads(_rle_text(pixels))["counts"], (height, width), "x")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    np.testing.assert_array_equal(flat.reshape(width, height).T, pixels)


@settings(max_examples=200)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=130), max_size=12))
def test_damaged_run_lengths_never_reach_the_decoder(text):
    try:
        counts = rle_counts(text, (5, 7), "x")
    except ValueError as error:
        assert str(error).startswith("x: its run lengths")
    else:
        assert sum(counts) == 35 and min(counts) >= 0


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31), st.sampled_from([1, 300, 70_000]))
def test_boxes_of_numbers_are_those_of_the_naive_loop(height, width, seed, step):
    ids = (np.random.default_rng(seed).integers(0, 4, (height, width)) * step).astype(np.int32)
    numbers, boxes = id_boxes(ids)
    expected = {}
    for number in sorted(set(ids.ravel().tolist()) - {0}):
        ys, xs = np.nonzero(ids == number)
        expected[number] = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert dict(zip(numbers.tolist(), boxes.tolist(), strict=True)) == expected


# ---------------------------------------------------------------- box arithmetic

@st.composite
def box_tensors(draw, smallest=1.0):
    "(n, 4) float64 xyxy boxes with sides of at least `smallest` pixels."
    rows = draw(st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500), st.floats(smallest, 800),
                                   st.floats(smallest, 800)), min_size=1, max_size=5))
    corner, size = torch.tensor(rows, dtype=torch.float64).split(2, dim=1)
    return torch.cat([corner, corner + size], dim=1)


@settings(max_examples=60)
@given(boxes=box_tensors(), fmt=st.sampled_from(["xywh", "cxcywh", "yxyx"]))
def test_converting_there_and_back_changes_nothing(boxes, fmt):
    back = box_convert(box_convert(boxes, "xyxy", fmt), fmt, "xyxy")
    torch.testing.assert_close(back, boxes, atol=1e-9, rtol=0)


@settings(max_examples=60)
@given(data=st.data(), weights=st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]))
def test_decoding_what_was_encoded_gives_the_box(data, weights):
    gt_boxes = data.draw(box_tensors())
    anchors = data.draw(box_tensors(smallest=20.0))[:1].expand_as(gt_boxes)
    deltas = encode_boxes(gt_boxes, anchors, weights)
    torch.testing.assert_close(decode_boxes(deltas, anchors, weights), gt_boxes, atol=1e-6, rtol=0)


@settings(max_examples=60)
@given(boxes=box_tensors(), height=st.integers(1, 600), width=st.integers(1, 600))
def test_clipping_stays_inside_and_twice_is_once(boxes, height, width):
    clipped = clip_boxes_to_image(boxes, (height, width))
    assert (clipped >= 0).all() and (clipped[:, 2] <= width).all() and (clipped[:, 3] <= height).all()
    assert (clipped[:, 2:] >= clipped[:, :2]).all() and (box_area(clipped) <= box_area(boxes) + 1e-9).all()
    torch.testing.assert_close(clip_boxes_to_image(clipped, (height, width)), clipped)
