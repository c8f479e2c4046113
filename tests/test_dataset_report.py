"The data set report: on the sample, and on a CSV folder that has everything wrong with it."
import json
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest

from frcnn_nbdev import reports
from frcnn_nbdev.formats import read_boxes

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"
RUN_FILES = {"boxes.csv", "environment.json", "findings.csv", "metrics.json", "params.yaml", "report.html", "report.ipynb", "times.json"}
NAMES = ["<script>alert(1)</script>", "$\\frac$; rm -rf /", "AC", "ac "]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory) -> Path:
    "Run folder of the report on 24 images with hostile class names and three mistakes."
    folder, random = tmp_path_factory.mktemp("spoiled"), np.random.default_rng(0)
    rows = ["name,x1,x2,y1,y2,classname"]
    for number in range(24):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 255, (90, 120), dtype=np.uint8))
        rows.append(f"{number}.png,{5 + number % 3},{50 + number},5,{60 + number % 7},{NAMES[number % 4]}")
    rows[3], rows[4] = "2.png,5,900,5,60,AC", "3.png,5,5,5,60,AC"
    (folder / "boxes.csv").write_text("\n".join(rows))
    (folder / "7.png").write_bytes(b"")
    return reports.run_report("dataset", {"data": str(folder), "image_size": 64, "group_pattern": r"^(\d)"}, folder / "run", progress=False)


def test_the_report_on_the_sample(tmp_path):
    run = reports.run_report("dataset", {"data": str(SAMPLE), "thumbnails": 2}, tmp_path / "run", progress=False)
    assert {path.name for path in run.iterdir() if path.is_file()} == RUN_FILES
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["images"], metrics["boxes"], metrics["findings"]) == (24, 24, {})
    assert metrics["classes"] == {"AC": 6, "FL": 6, "HC": 6, "HUM": 6}
    recall = metrics["recall"]
    assert recall["fitted"]["0.5"] > 0.5 > recall["paper"]["0.5"] and len(metrics["anchors"]) == 6
    assert len(pd.read_csv(run / "boxes.csv")) == 24
    assert {path.stem for path in (run / "figures").iterdir()} == {"counts", "sizes", "class1", "class2", "class3", "class4", "anchor_recall"}


def test_mistakes_do_not_stop_it(spoiled):
    metrics = json.loads((spoiled / "metrics.json").read_text())
    assert metrics["findings"].items() >= {"outside": 1, "no_area": 1, "unreadable": 1, "class_spelling": 1}.items()
    findings = pd.read_csv(spoiled / "findings.csv")
    taken = findings[findings["severity"].isin(["error", "dropped"]) & (findings["row"] >= 0)]
    boxes = pd.read_csv(spoiled / "boxes.csv")
    assert set(boxes["group"]) <= set(range(10))            # the first digit of the name
    assert len(boxes) + len(taken) == 24 and metrics["boxes"] == len(boxes) == 21
    assert (spoiled / "figures" / "findings.png").is_file()
    page = (spoiled / "report.html").read_text()
    assert "errors, which stop a training" in page.split('<nav class="contents"')[0]      # above all else
    assert "cut the box to the image" in page or all(fix in page for fix in findings["fix"].str.slice(0, 40).str.replace("&", "&amp;").str.replace("'", "&#x27;").head(3))


def test_class_names_are_shown_and_not_obeyed(spoiled):
    outputs = [output for cell in nbformat.read(spoiled / "report.ipynb", 4).cells for output in cell.get("outputs", [])]
    texts = [str(output.get("data", {}).get("text/html", "")) for output in outputs]
    assert any("&lt;script&gt;" in text for text in texts)
    assert not any("<script>alert" in text for text in texts)
    assert "<script>alert" not in (spoiled / "report.html").read_text()
    assert "frac" in (spoiled / "report.html").read_text()
    assert set(read_boxes(spoiled / "boxes.csv", format="csv", resolve=False)["classname"]) == set(NAMES)
