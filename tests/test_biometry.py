"""Biometry on real heads, whose circumference is known, and on tables that a report can meet."""
import numpy as np
import pandas as pd
import pytest

from frcnn_nbdev.biometry import fit_factors, measure_boxes, size_errors, size_pairs
from frcnn_nbdev.formats import read_hc18


@pytest.fixture(scope="module")
def heads(real):
    "Boxes of HC18 with the true circumference of each image."
    if not (real / "hc18").is_dir():
        pytest.skip(f"no HC18 in {real}; set FRCNN_REAL to its parent")
    table = read_hc18(real / "hc18")
    sizes = pd.read_csv(real / "hc18" / "training_set_pixel_size_and_HC.csv").set_index("filename")
    return table.assign(size_mm=table["name"].str.rsplit("/", n=1).str[-1].map(sizes["head circumference (mm)"]))


def test_true_boxes_of_hc18_measure_heads_to_one_percent(heads):
    assert len(heads) == 300 and heads["size_mm"].notna().all()
    train, test = heads[heads["split"] == "train"], heads[heads["split"] == "test"]
    error = 100 * (measure_boxes(train) / train["size_mm"] - 1)
    assert round(error.abs().mean(), 1) == 1.1 and error.min() > 0      # all too large
    factors = fit_factors(train)
    assert {name: round(factor, 3) for name, factor in factors.items()} == {"HC": 0.989}
    found = test.assign(score=1.0)[["name", "x1", "x2", "y1", "y2", "classname", "score"]]
    errors = size_errors(size_pairs(test, found, factors=factors)).loc["HC"]
    assert (errors["count"], errors["missing"]) == (60, 0)
    assert round(errors["mean_percent"], 1) == 0.2 and round(errors["mean_error"], 1) == 0.3
    assert abs(errors["bias"]) < 0.2


def test_the_error_of_hc18_does_not_follow_the_angle(heads):
    # The flatter the box against the ellipse's axes, the less it is turned; the diagonal does not care.
    error = measure_boxes(heads) / heads["size_mm"] - 1
    flat = (heads["x2"] - heads["x1"]) / (heads["y2"] - heads["y1"])
    assert error.std() < 0.004 and abs(np.corrcoef(error, flat)[0, 1]) < 0.3


@pytest.fixture
def table():
    return pd.DataFrame({"name": ["a", "b", "b", "c"], "x1": [0.0, 0, 50, np.nan], "x2": [30.0, 40, 80, np.nan],
                         "y1": [0.0, 0, 0, np.nan], "y2": [40.0, 40, 40, np.nan], "classname": ["FL", "HC", "FL", ""],
                         "pixel_size": [0.1, 0.5, 0.5, 0.1]})


def test_sizes_of_a_perfect_detector_are_true(table):
    pairs = size_pairs(table, table.dropna().drop(columns="pixel_size").assign(score=1.0))
    np.testing.assert_allclose(pairs["truth"], [5, 20 * np.pi, 25])
    np.testing.assert_allclose(pairs["measured"], pairs["truth"])
    assert size_errors(pairs).loc["all", ["count", "missing", "bias", "mean_percent"]].tolist() == [3, 0, 0, 0]


def test_detections_of_unknown_images_and_missing_scores_are_refused(table):
    found = table.dropna().drop(columns="pixel_size").assign(score=1.0)
    with pytest.raises(ValueError, match="image 'z'"):
        size_pairs(table, found.assign(name="z"))
    with pytest.raises(ValueError, match="has no score"):
        size_pairs(table, found.assign(score=np.nan))


def test_float32_boxes_and_no_predictions(table):
    single = table.astype({column: "float32" for column in ["x1", "x2", "y1", "y2"]})
    assert size_errors(size_pairs(single, None)).loc["all", "missing"] == 3
    np.testing.assert_allclose(measure_boxes(single), measure_boxes(table), rtol=1e-6)
