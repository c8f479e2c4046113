"The benchmark report with tiny settings: complete, in words, and stopped by one sentence. No time is asserted."
import json

import pandas as pd
import pytest

from frcnn_nbdev import reports
from frcnn_nbdev.runs import benchmark

TINY = dict(quick=True, minutes=60.0, repetitions=1, nms_boxes="50")      # no case is left out, however slow the machine is


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return reports.run_report("benchmark", TINY, tmp_path_factory.mktemp("benchmark") / "tiny", progress=False)


def test_the_run_folder_is_complete(tiny):
    assert sorted(p.name for p in tiny.iterdir() if p.is_file()) == [
        "environment.json", "measurements.csv", "metrics.json", "params.yaml", "report.html", "report.ipynb", "times.json"]
    assert sorted(p.stem for p in (tiny / "figures").glob("*.png")) == [
        "growth", "inference", "nms_ratios", "parts_bf16", "parts_float32", "roi_ratios", "training"]
    page = (tiny / "report.html").read_text()
    assert "src=\"http" not in page and "Warning" not in page and "/s]" not in page


def test_every_turn_is_on_record(tiny):
    record = pd.read_csv(tiny / "measurements.csv")
    assert list(record) == ["what", "case", "repetition", "candidate", "seconds"]
    assert (record["seconds"] > 0).all() and set(record["repetition"]) == {0}
    assert not record.duplicated(["what", "case", "repetition", "candidate"]).any()
    steps = record[(record["what"] == "training")]["candidate"].tolist()
    assert {"torchvision", "ours", "ours, channels_last", "ours, bf16 + channels_last",
            "torchvision, bf16 + channels_last", "limit", "limit, bf16 + channels_last"} == set(steps)
    assert {"box_iou", "anchors", "matching", "encode", "decode", "NMS", "RoIAlign", "RoIPool", "inference"} <= set(record["what"])


def test_metrics_hold_every_target_in_words(tiny):
    metrics = json.loads((tiny / "metrics.json").read_text())
    assert {"machine", "targets", "speed", "over_limit", "parts", "memory", "loader_share", "not_measured"} == set(metrics)
    assert metrics["not_measured"] == []
    verdicts = {goal: t["verdict"] for goal, t in metrics["targets"].items()}
    assert set(verdicts.values()) <= {"met", "NOT MET", "not measured"}
    title = benchmark.CONFIGURATIONS["resnet50"].title
    assert verdicts[f"training: {title}, ours, times faster"] == "not measured"
    title = benchmark.CONFIGURATIONS["resnet18"].title
    assert verdicts[f"training: {title}, ours, times faster"] != "not measured"
    assert metrics["speed"]["training"][title]["torchvision"]["ratio"] == 1.0
    assert 0 < metrics["loader_share"] < 1 and metrics["memory"][title]["float32"]["ours MB"] > 50


def test_what_does_not_fit_into_the_minutes_is_left_out_and_named(tmp_path, capfd):
    run = reports.run_report("benchmark", {**TINY, "minutes": 1e-6}, tmp_path / "none", progress=True)
    metrics, page, said = json.loads((run / "metrics.json").read_text()), (run / "report.html").read_text(), capfd.readouterr().err
    assert {target["verdict"] for target in metrics["targets"].values()} == {"not measured"} and metrics["loader_share"] is None
    title = benchmark.CONFIGURATIONS["resnet18"].title
    for what in (f"training: {title}", f"memory in float32: {title}", f"parts in bf16: {title}", "NMS: scene 50", "data loader: 24 images"):
        assert what in metrics["not_measured"]
        assert f"benchmark: {what.replace(': ', ', ', 1)}: not measured" in said
    assert f"Not measured: {len(metrics['not_measured'])} cases did not fit into 1e-06 minutes" in page
    assert len(pd.read_csv(run / "measurements.csv")) == 0


@pytest.mark.parametrize("name, value, sentence", [
    ("detectors", "resnet18 yolo", "there is no detector 'yolo'"),
    ("nms_boxes", "100 many", "nms_boxes is '100 many'"),
    ("minutes", 0.0, "minutes is 0.0"),
    ("device", "tpu", "the device 'tpu' is unknown"),
])
def test_bad_parameters(name, value, sentence, tmp_path):
    with pytest.raises((ValueError, reports.ReportError), match=sentence):     # before it starts, or in its first cell
        reports.run_report("benchmark", {**TINY, name: value}, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
