"Fast R-CNN and selective search across stages: store, data set, training, real images, weights."
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from frcnn_nbdev import selective_search as search
from frcnn_nbdev.batches import make_loader, train_transforms
from frcnn_nbdev.data import load_boxes
from frcnn_nbdev.fast_rcnn import ProposalDataset, compact_fast_rcnn, fastrcnn_vgg16_bn, sampling_table
from frcnn_nbdev.labels import read_image
from frcnn_nbdev.training import fit, save_weights

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"


@pytest.fixture(scope="module")
def data():
    return load_boxes(SAMPLE)


@pytest.fixture(scope="module")
def store(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("proposals") / "store"
    search.precompute_proposals(data, folder, mode="single", max_side=256, progress=False)
    return folder


def train(data, store, seed=0, **options):
    proposals = search.read_proposals(data, store)
    training = ProposalDataset(data, "train", proposals, image_size=64, transforms=train_transforms())
    val = ProposalDataset(data, "val", proposals, image_size=64)
    torch.manual_seed(0)
    model = compact_fast_rcnn("small", len(data.classes) + 1, box_batch_size_per_image=16, **options)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = fit(model, make_loader(training, 4, shuffle=True), make_loader(val, 4), epochs=2, ema_decay=None, seed=seed,
              progress=False)
    return model, before, run


def test_training_repeats_to_the_bit_and_reaches_every_layer(data, store):
    model, before, run = train(data, store)
    again = train(data, store)[2]
    assert run.history.equals(again.history)
    assert not run.history.equals(train(data, store, seed=1)[2].history)
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert not still, f"the training did not reach {still}"
    for part in ("train", "val"):
        assert (run.history[[f"{part}_loss_objectness", f"{part}_loss_rpn_box_reg"]] == 0).all(axis=None)
        assert (run.history[[f"{part}_loss_classifier", f"{part}_loss_box_reg"]] > 0).all(axis=None)


def test_augmentation_moves_proposals_with_the_truth(data, store):
    # A proposal that is the true box must stay the true box, whatever the transforms do.
    columns = ["x1", "y1", "x2", "y2"]
    same = {name: torch.tensor(rows[columns].to_numpy()).float() for name, rows in data.table.groupby("name")}
    torch.manual_seed(0)
    for _, target in ProposalDataset(data, "all", same, image_size=96, transforms=train_transforms(flip=0.5)):
        torch.testing.assert_close(target["proposals"], target["boxes"])
        assert (target["labels"] >= 1).all() and (target["labels"] <= len(data.classes)).all()


def test_too_few_positives_are_said(data):
    # Proposals far from every object: the true box is the only positive of each image.
    far = {name: torch.tensor([[0., 0, 12, 12]]) for name in data.table["name"]}
    table = sampling_table(ProposalDataset(data, "all", far, image_size=96), batch_size_per_image=8)
    assert (table["drawn_positives"] == 1).all() and (table["missing"] == 1).all()     # 2 are wanted: 25 % of 8
    assert (table["drawn_negatives"] == 1).all()                                       # nothing is drawn twice


def test_interrupted_search_goes_on(data, tmp_path, monkeypatch):
    calls, real = [], search.selective_search

    def stops_at_the_third(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    options = dict(mode="single", max_side=128, progress=False)
    monkeypatch.setattr(search, "selective_search", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        search.precompute_proposals(data, tmp_path / "s", **options)
    assert len(list((tmp_path / "s").glob("*.npz"))) == 2
    with pytest.raises(ValueError, match="the store has no proposals for it; run precompute_proposals"):
        search.read_proposals(data, tmp_path / "s")
    assert search.precompute_proposals(data, tmp_path / "s", **options) == 22
    assert len(search.read_proposals(data, tmp_path / "s")) == 24
    assert not list((tmp_path / "s").glob("*.partial*"))


class MakesAFolder:
    "An object whose pickle makes a folder when it is read."

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_store_runs_no_code_of_its_files(data, tmp_path):
    one = replace(data, table=data.table.iloc[:1])
    name = one.table["name"].iloc[0]
    search.precompute_proposals(one, tmp_path / "s", mode="single", max_side=128, progress=False)
    place = tmp_path / "s" / f"{search.image_key(data.root / name, name)}.npz"
    harmful = np.array([MakesAFolder(tmp_path / "ran")], dtype=object)
    np.savez(place, boxes=harmful, name=np.array(name), size=np.array([1, 1]))
    with pytest.raises(ValueError, match="not a file of proposals; delete it"):
        search.read_proposals(one, tmp_path / "s")
    assert not (tmp_path / "ran").exists()


def test_proposals_of_other_images_are_refused(data, store):
    proposals = search.read_proposals(data, store)
    with pytest.raises(ValueError, match=r"AC/.*: there are no proposals for it"):
        ProposalDataset(data, "train", {k: v for k, v in proposals.items() if not k.startswith("AC")})
    with pytest.raises(ValueError, match="as if made for another image"):
        ProposalDataset(data, "train", {k: v * 2 for k, v in proposals.items()})
    with pytest.raises(ValueError, match="convert fractions with absolute_boxes"):
        ProposalDataset(data, "train", {k: v / 1000 for k, v in proposals.items()})


def test_vgg16_bn_reads_its_own_weights(tmp_path):
    options = dict(head_width=8, min_size=64, max_size=128)
    torch.manual_seed(0)
    model = fastrcnn_vgg16_bn(weights_backbone=None, num_classes=3, **options)
    save_weights(model, tmp_path / "fast.safetensors")
    again = fastrcnn_vgg16_bn(weights=tmp_path / "fast.safetensors", trainable_backbone_layers=3, **options)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    frozen = [not p.requires_grad for p in again.backbone.parameters() if p.ndim == 4]
    assert frozen == [True] * 4 + [False] * 9
    given = [{"proposals": torch.tensor([[5., 5, 40, 40]])}]
    picture = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for a, b in zip(model.eval()([picture], given)[0].values(), again.eval()([picture], given)[0].values(), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(ValueError, match="num_classes is 5 but weights file fast.safetensors has 3"):
        fastrcnn_vgg16_bn(weights=tmp_path / "fast.safetensors", num_classes=5, **options)


def bccd_recall(real, images, **options):
    "Recall at 2000 proposals on evenly spread images of BCCD's test split."
    data = load_boxes(real / "bccd")
    table = data.table[data.table["split"] == "test"]
    names = sorted(set(table["name"]))
    names = names[::len(names) // images][:images]
    truth = [torch.tensor(table.loc[table["name"] == n, ["x1", "y1", "x2", "y2"]].to_numpy()).float() for n in names]
    found = [search.selective_search(read_image(data.root / name), **options) for name in names]
    return search.proposal_recall(found, truth, [2000])[0]


def test_recall_on_blood_cells(real):
    assert bccd_recall(real, 6, max_side=320) >= 0.9


@pytest.mark.slow
def test_recall_on_blood_cells_at_full_size(real):
    assert bccd_recall(real, 72) >= 0.9
