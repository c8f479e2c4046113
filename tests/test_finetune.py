"torchvision's detectors through our data, training and reports; weights as torchvision itself would load them."
import json
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights, VGG16_Weights, get_model, get_model_weights
from torchvision.models import mobilenet_v3_large, vgg16
from torchvision.models._api import WeightsEnum
from torchvision.models.detection import ssd, ssdlite
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone

from frcnn_nbdev import reports
from frcnn_nbdev.runs import parameters, recipe, record
from frcnn_nbdev.batches import BoxesDataset, make_loader, predictions_table
from frcnn_nbdev.data import load_boxes
from frcnn_nbdev.evaluation import evaluate
from frcnn_nbdev.faster_rcnn import fasterrcnn_resnet50_fpn
from frcnn_nbdev.features import classification_model
from frcnn_nbdev.finetune import (
    backbone_stages,
    count_classes,
    detector_names,
    freeze_norm,
    learns_masks,
    object_masks,
    replace_predictor,
    torchvision_detector,
)
from frcnn_nbdev.training import fit, predict, save_weights, validate
from frcnn_nbdev.tuning import freeze_stages

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"
SMALL = dict(box_batch_size_per_image=8, rpn_pre_nms_top_n_train=50, rpn_post_nms_top_n_train=20, rpn_pre_nms_top_n_test=50,
             rpn_post_nms_top_n_test=10, box_detections_per_img=3)
MOBILENET = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def data():
    return load_boxes(SAMPLE, format="mask")


def splits(data, name, **options):
    masks = object_masks(data) if learns_masks(name) else None
    return [BoxesDataset(data, split, image_size=64, masks=masks, **options) for split in ("train", "val")]


def train(data, name, steps=1, seed=0, **options):
    training, val = splits(data, name)
    torch.manual_seed(0)
    model = torchvision_detector(name, len(data.classes) + 1, **(SMALL if "rcnn" in name else {}), **options)
    run = fit(model, make_loader(training, 2, shuffle=True, seed=0), make_loader(val, 4), epochs=1, max_steps=steps, warmup=0.0,
              lr=1e-4, ema_decay=None, seed=seed, progress=False)
    return model, run, val


SLOW = {"ssd300_vgg16", "maskrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in detector_names()])
def test_every_detector_trains_validates_and_is_evaluated(name, data):
    model, run, val = train(data, name)
    losses = [c[6:] for c in run.history if c.startswith("train_")]
    expected = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"} if "rcnn" in name else {"classification", "bbox_regression"}
    expected |= {"loss_mask"} if "mask" in name else {"bbox_ctrness"} if "fcos" in name else set()
    assert set(losses) == expected and {f"val_{loss}" for loss in losses} <= set(run.history)
    assert np.isfinite(run.history.to_numpy(float)).all() and run.steps == 1
    detections = predict(model, make_loader(val, 4))
    assert len(detections) == len(val) and all(set(one) == {"boxes", "labels", "scores"} for one in detections)
    metrics = evaluate(val.table, predictions_table(val, detections, data.classes), data.classes)
    assert metrics["images"] == len(val)


def test_training_repeats_to_the_bit(data):
    history = train(data, MOBILENET, steps=3)[1].history
    assert history.equals(train(data, MOBILENET, steps=3)[1].history)
    assert not history.equals(train(data, MOBILENET, steps=3, seed=1)[1].history)


def test_validation_repeats_and_leaves_the_random_numbers_alone(data):
    model, _, val = train(data, MOBILENET)
    torch.manual_seed(5)
    first = validate(model, make_loader(val, 4))[0]
    after = torch.rand(1)
    assert validate(model, make_loader(val, 4))[0] == first and not model.training
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)


def test_one_image_in_the_last_batch_of_ssdlite(data):
    training, _ = splits(data, "ssdlite320_mobilenet_v3_large")
    image, target = training[0]
    model = torchvision_detector("ssdlite320_mobilenet_v3_large", 5).train()
    assert all(value.isfinite() for value in model([image], [target]).values())


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn_v2", MOBILENET,
                                  pytest.param("ssd300_vgg16", marks=pytest.mark.slow), "ssdlite320_mobilenet_v3_large", "maskrcnn_resnet50_fpn"])
def test_new_predictor_learns_its_classes(name):
    # The new layers have the right shapes for a loss and for detections of every class.
    torch.manual_seed(0)
    model = torchvision_detector(name, 91, **(SMALL if "rcnn" in name else {}))
    replace_predictor(model, 3)
    assert count_classes(model.state_dict()) == 3
    target = {"boxes": torch.tensor([[5., 5, 40, 40], [8, 8, 60, 50]]), "labels": torch.tensor([1, 2]),
              "masks": torch.ones(2, 64, 64, dtype=torch.uint8)}
    losses = model.train()([torch.rand(3, 64, 64)] * 2, [target] * 2)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    with torch.no_grad():
        found = model.eval()([torch.rand(3, 64, 64)])[0]
    assert ((found["labels"] >= 1) & (found["labels"] <= 2)).all()


def random_state(model, seed=0):
    "Tensors like the model's, with numbers that no other model has."
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
            for key, value in model.state_dict().items()}


def same_model(a, b):
    assert list(a.state_dict()) == list(b.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    flags = [[(key, p.requires_grad) for key, p in model.named_parameters()] for model in (a, b)]
    assert flags[0] == flags[1]
    norms = [[(type(m).__name__.replace("OneValue", ""), m.eps) for m in model.modules() if hasattr(m, "running_mean")] for model in (a, b)]
    assert norms[0] == norms[1]


@pytest.mark.parametrize("name, member", [
    ("fasterrcnn_resnet50_fpn", ResNet50_Weights.IMAGENET1K_V1), ("retinanet_resnet50_fpn_v2", ResNet50_Weights.IMAGENET1K_V2),
    ("fcos_resnet50_fpn", ResNet50_Weights.IMAGENET1K_V2), (MOBILENET, MobileNet_V3_Large_Weights.IMAGENET1K_V1),
    pytest.param("ssd300_vgg16", VGG16_Weights.IMAGENET1K_FEATURES, marks=pytest.mark.slow)])
def test_backbone_weights_as_torchvision_takes_them(name, member, monkeypatch):
    # Instead of a download: numbers of the right shapes. torchvision's own builder says what must come out.
    network = {ResNet50_Weights: "resnet50", MobileNet_V3_Large_Weights: "mobilenet_v3_large", VGG16_Weights: "vgg16"}[type(member)]
    state = random_state(get_model(network, weights=None))
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: state)
    torch.manual_seed(0)
    expected = get_model(name, weights=None, weights_backbone=member, num_classes=5)
    mine = torchvision_detector(name, 5, weights_backbone=member.name)
    kept = {key: value for key, value in mine.state_dict().items() if key.startswith(("backbone.body", "backbone.features"))}
    assert kept and all(torch.equal(value, expected.state_dict()[key]) for key, value in kept.items())
    mine.load_state_dict(expected.state_dict())
    same_model(mine, expected)


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "fcos_resnet50_fpn", MOBILENET,
                                  "ssdlite320_mobilenet_v3_large"])
def test_detector_weights_as_torchvision_takes_them(name, monkeypatch):
    state = random_state(get_model(name, weights=None, weights_backbone=None, num_classes=91))
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: state)
    expected = get_model(name, weights="COCO_V1")
    same_model(torchvision_detector(name, 91, weights="COCO_V1", new_predictor=False), expected)
    tuned = torchvision_detector(name, 5, weights=get_model_weights(name).COCO_V1, trainable_layers=0)
    assert count_classes(tuned.state_dict()) == 5
    assert not any(p.requires_grad for stage in backbone_stages(tuned) for layer in stage for p in layer.parameters())


def old_names(state):
    "A detector's tensors under torchvision's names of 2019."
    return {key.replace("rpn.head.conv.0.0", "rpn.head.conv") if "rpn" in key else
            key.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "_blocks" in key else key: value
            for key, value in state.items() if "num_batches_tracked" not in key}


def test_files_of_2019_load(tmp_path):
    name = "fasterrcnn_resnet50_fpn"
    torch.manual_seed(0)
    source = torchvision_detector(name, 91)
    state = old_names(source.state_dict())
    assert "backbone.fpn.inner_blocks.0.weight" in state and "rpn.head.conv.bias" in state
    torch.save(state, tmp_path / "old.pth")
    theirs = torchvision_detector(name, 91, weights=tmp_path / "old.pth", new_predictor=False)
    ours = fasterrcnn_resnet50_fpn(weights=tmp_path / "old.pth", num_classes=91)
    for model in (theirs, ours):
        assert torch.equal(model.state_dict()["backbone.fpn.layer_blocks.3.0.weight"], source.state_dict()["backbone.fpn.layer_blocks.3.0.weight"])
        assert torch.equal(model.state_dict()["rpn.head.conv.0.0.bias"], source.state_dict()["rpn.head.conv.0.0.bias"])


@pytest.mark.parametrize("name, stages, reference", [
    ("retinanet_resnet50_fpn", 5, lambda k: resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=k)),
    (MOBILENET, 6, lambda k: mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=k)),
    pytest.param("ssd300_vgg16", 5, lambda k: ssd._vgg_extractor(vgg16(), False, k), marks=pytest.mark.slow),
    ("ssdlite320_mobilenet_v3_large", 6, lambda k: ssdlite._mobilenet_extractor(mobilenet_v3_large(reduced_tail=True), k, torch.nn.BatchNorm2d)),
])
def test_stages_are_frozen_as_torchvision_does(name, stages, reference):
    def frozen(module):
        return [key.split(".", 1)[1] for key, p in module.named_parameters() if not p.requires_grad]
    for k in range(stages + 1):
        with torch.device("meta"):
            expected = reference(k)
        model = get_model(name, weights=None, weights_backbone=None, num_classes=2)
        assert len(backbone_stages(model)) == stages
        if hasattr(model.backbone, "body"):
            freeze_norm(model.backbone.body)
        freeze_stages(model, stages - k, backbone_stages(model))
        assert frozen(model.backbone) == frozen(expected), k


def test_fine_tuned_file_is_read_back(data, tmp_path):
    model, _, val = train(data, MOBILENET, steps=2)
    save_weights(model, tmp_path / "mine.safetensors")
    again = torchvision_detector(MOBILENET, 5, weights=tmp_path / "mine.safetensors", new_predictor=False, **SMALL)
    for a, b in zip(predict(model, make_loader(val, 4)), predict(again, make_loader(val, 4)), strict=True):
        assert_close(a["scores"], b["scores"])
    with pytest.raises(ValueError, match="num_classes is 4 but weights file mine.safetensors has 5 classes"):
        torchvision_detector(MOBILENET, 4, weights=tmp_path / "mine.safetensors", new_predictor=False)
    with pytest.raises(ValueError, match="these weights of a MobileNetV3 do not fit the backbone of ssdlite320"):
        torch.save(classification_model("mobilenet_v3_large").state_dict(), tmp_path / "imagenet.pth")
        torchvision_detector("ssdlite320_mobilenet_v3_large", 5, weights_backbone=tmp_path / "imagenet.pth")


def test_no_network(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for options in ({"weights": "COCO_V1"}, {"weights_backbone": "IMAGENET1K_V1"}):
        with pytest.raises(OSError, match="could not be downloaded: without network, give the path of a file"):
            torchvision_detector("fcos_resnet50_fpn", 5, **options, progress=False)


TINY = dict(phantom_train=8, epochs=1, image_size=64, batch_size=4, rois=8, proposals=20, validate_every=1)


@pytest.mark.parametrize("name, source", [
    ("ssdlite320_mobilenet_v3_large", "homework"), pytest.param("maskrcnn_resnet50_fpn", "homework", marks=pytest.mark.slow),
    pytest.param("maskrcnn_resnet50_fpn", "phantom", marks=pytest.mark.slow)])
def test_report_by_the_parameter_model(name, source, tmp_path):
    data, classes = (str(SAMPLE.parent / "homework"), 2) if source == "homework" else (source, 5)
    run = reports.run_report("train", dict(TINY, model=name, data=data), tmp_path / "run", progress=False)
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"AP", "AP50", "accuracy", "mean_iou", "images"} <= set(metrics["test"])
    state = torchvision_detector(name, classes, weights=run / "model.safetensors", new_predictor=False).state_dict()
    assert count_classes(state) == classes
    page = (run / "report.html").read_text()
    assert "Warning" not in page and name in page


@pytest.mark.parametrize("name, stages, first_trained", [
    ("ssd300_vgg16", 0, "features.0.weight"), ("ssd300_vgg16", 1, "features.5.weight"), ("ssd300_vgg16", 2, "features.10.weight"),
    ("ssdlite320_mobilenet_v3_large", 1, "features.0.2."), ("retinanet_resnet50_fpn", 2, "body.layer2.0.conv1.weight")])
def test_parameter_frozen_is_for_torchvisions_models_too(name, stages, first_trained, data, tmp_path, monkeypatch):
    with torch.device("meta"):
        model = get_model(name, weights=None, weights_backbone=None, num_classes=2)
    params = {p.name: p.default for p in parameters.declared_parameters("train").values()} | {"model": name, "frozen": stages}
    (tmp_path / "environment.json").write_text("{}")
    monkeypatch.setattr(recipe, "fit", lambda *args, **options: None)      # what is frozen is asked here, not what is learned
    recipe.train_model(record.Run("train", tmp_path, params), model, {s: BoxesDataset(data, s, image_size=32) for s in ("train", "val")})
    trained = [key for key, p in model.backbone.named_parameters() if p.requires_grad]
    assert next(key for key in trained if key.startswith(("features", "body"))).startswith(first_trained)


def test_real_weights_of_another_network_are_refused(real):
    file = real / "weights" / "squeezenet1_0_imagenet.safetensors"
    p = dict(model=MOBILENET, backbone="small", weights=str(file), baseline=False, rois=8, proposals=20)
    with pytest.raises(ValueError, match="squeezenet1_0_imagenet.safetensors has no 'features.0.0.weight'"):
        recipe.report_torchvision_model(p, 5)


@pytest.mark.parametrize("params, sentence", [
    (dict(model="fasterrcnn_resnet50"), "did you mean 'fasterrcnn_resnet50_fpn'?: the ones there are: faster_rcnn, fasterrcnn_mobilenet"),
    (dict(model="yolo"), "the model 'yolo' is unknown: the ones there are: faster_rcnn"),
])
def test_unknown_model_stops_before_anything_starts(params, sentence, tmp_path):
    with pytest.raises(ValueError, match="is unknown") as stopped:
        reports.run_report("train", params, tmp_path / "run", progress=False)
    assert sentence in str(stopped.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("params, sentence", [
    (dict(model=MOBILENET, backbone="vgg16"), "has the backbone 'mobilenet_v3_large' and no other: leave `backbone` out"),
    (dict(model=MOBILENET, baseline=True), "`baseline` is for the model 'faster_rcnn'"),
    (dict(model=MOBILENET, weights="COCO_V7"), "give one of COCO_V1, DEFAULT, IMAGENET1K_V1"),
])
def test_parameters_that_do_not_go_together(params, sentence):
    p = {"backbone": "small", "weights": "", "baseline": False, "rois": 8, "proposals": 20, **params}
    with pytest.raises(ValueError) as stopped:
        recipe.report_torchvision_model(p, 5)
    assert sentence in str(stopped.value)
