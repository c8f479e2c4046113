"Batches: caches, resizing, transforms, order and workers, and the way back to the pixels of the files."
from pathlib import Path

import numpy as np
import pytest
import torch

from frcnn_nbdev.batches import (AspectBatchSampler, BoxesDataset, make_loader, predictions_table, train_transforms,
                                 ultrasound_transforms)
from frcnn_nbdev.data import load_boxes

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"


@pytest.fixture(scope="module")
def data():
    return load_boxes(SAMPLE)


def batches(data, seed, workers=0, **settings):
    "All images and boxes of two epochs."
    torch.manual_seed(seed)
    dataset = BoxesDataset(data, "train", image_size=32, transforms=train_transforms(**settings))
    loader = make_loader(dataset, 3, shuffle=True, seed=seed, workers=workers)
    return [[(target["image_id"], image, target["boxes"]) for images, targets in loader
             for image, target in zip(images, targets, strict=True)] for _ in range(2)]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_gives_the_same_batches_and_epochs_differ(data, workers):
    first, again, other = (batches(data, seed, workers) for seed in (1, 1, 2))
    for epoch, epoch_again in zip(first, again, strict=True):
        for one, two in zip(epoch, epoch_again, strict=True):
            assert one[0] == two[0] and torch.equal(one[1], two[1]) and torch.equal(one[2], two[2])
    by_image = [{index: image for index, image, _ in epoch} for epoch in first]
    assert not any(torch.equal(by_image[0][index], by_image[1][index]) for index in by_image[0])
    assert [one[0] for one in first[0]] != [one[0] for one in other[0]]


def test_workers_give_what_the_main_process_gives(data):
    dataset = BoxesDataset(data, "all", image_size=32)
    alone, helped = ([target["boxes"] for _, targets in make_loader(dataset, 4, shuffle=True, workers=workers) for target in targets]
                     for workers in (0, 1))
    torch.testing.assert_close(torch.cat(alone), torch.cat(helped), rtol=0, atol=0)


def test_default_transforms_draw_as_the_published_runs_did(data):
    # Sums after the transforms of a fixed seed: another order of drawing changes every trained number.
    torch.manual_seed(5)
    dataset = BoxesDataset(data, "train", image_size=96, transforms=train_transforms())
    boxes = torch.stack([dataset[index][1]["boxes"][0] for index in (0, 3, 7)])
    expected = [[40.3226, 22.6207, 60.9630, 61.1331], [30.7807, 36.6376, 56.0664, 85.3502], [47.7055, 25.1576, 62.9889, 36.7661]]
    torch.testing.assert_close(boxes, torch.tensor(expected), rtol=0, atol=1e-3)


@pytest.mark.parametrize("resize, size", [("square", 32), ("longest", 64), ("letterbox", 64), ("native", None)])
def test_predictions_come_back_in_original_pixels(data, resize, size):
    dataset = BoxesDataset(data, "test", image_size=size, resize=resize)
    found = [{"boxes": target["boxes"], "labels": target["labels"], "scores": torch.ones(1)} for _, target in dataset]
    table = predictions_table(dataset, found, data.classes)
    corners = ["x1", "x2", "y1", "y2"]
    np.testing.assert_allclose(table[corners], dataset.table.sort_values("name")[corners], atol=1e-4)
    assert table["classname"].tolist() == dataset.table.sort_values("name")["classname"].tolist()


def test_a_letterbox_has_no_detections_in_its_margin(data):
    dataset = BoxesDataset(data, "test", image_size=64, resize="letterbox")
    found = [{"boxes": torch.tensor([[0.0, 0, 64, 64]]), "labels": torch.tensor([1]), "scores": torch.ones(1)}] * len(dataset)
    table = predictions_table(dataset, found, data.classes)
    assert table[["x1", "y1", "x2", "y2"]].drop_duplicates().to_numpy().tolist() == [[0, 0, 525, 256]]


def test_caches_give_the_same_pixels(data, tmp_path):
    plain = BoxesDataset(data, "all", image_size=48, cache=False)
    bound = 48 * 48 * 3 * 5
    for cache in (True, tmp_path / "cache"):
        dataset = BoxesDataset(data, "all", image_size=48, cache=cache, cache_bytes=bound).preload()
        assert all((dataset.pixels(index) == plain.pixels(index)).all() for index in range(len(plain)))
        assert len(dataset._cache) == (5 if cache is True else 0)
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_boxes_are_never_whole_numbers_by_force(data):
    _, target = BoxesDataset(data, "train", image_size=100)[0]
    row = data.table[data.table["name"] == BoxesDataset(data, "train").name(0)].iloc[0]
    expected = torch.tensor([[row.x1 / 5.25, row.y1 / 2.56, row.x2 / 5.25, row.y2 / 2.56]])
    torch.testing.assert_close(target["boxes"], expected.float())
    assert (target["boxes"] != target["boxes"].round()).any()


def test_ultrasound_transforms_keep_boxes_inside(data):
    torch.manual_seed(0)
    dataset = BoxesDataset(data, "all", image_size=64, resize="longest", transforms=ultrasound_transforms(crop=0.5))
    for image, target in (dataset[index] for _ in range(5) for index in range(len(dataset))):
        height, width = image.shape[1:]
        assert image.dtype == torch.float32 and 0 <= image.min() and image.max() <= 1
        assert (target["boxes"] >= 0).all() and (target["boxes"][:, 2] <= width).all() and (target["boxes"][:, 3] <= height).all()
        assert len(target["boxes"]) == len(target["labels"]) == 1


def test_batches_by_aspect_are_alike():
    shapes = np.random.default_rng(0).integers(50, 200, (203, 2))
    sampler = AspectBatchSampler(shapes, 8, seed=1)
    found = list(sampler)
    assert sorted(sum(found, [])) == list(range(203)) and len(found) == len(sampler)
    ratio = np.log2(shapes[:, 0] / shapes[:, 1])
    assert max(np.ptp(ratio[batch]) for batch in found) <= 0.25
