"What users get wrong, and the sentence that each mistake gets: it names the image, box, label or file, and the value."
import io
import os
import pickle
from email.message import Message
from pathlib import Path
from unittest import mock
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import MobileNet_V3_Large_Weights
from torchvision.models.detection import FasterRCNN_MobileNet_V3_Large_320_FPN_Weights

from frcnn_nbdev.anchors import AnchorGenerator, anchors_from_sizes
from frcnn_nbdev.boxes import masks_to_boxes
from frcnn_nbdev.faster_rcnn import (
    compact_faster_rcnn,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_vgg16,
)
from frcnn_nbdev.features import build_backbone, load_weights
from frcnn_nbdev.roi_align import RoIAlign
from frcnn_nbdev.roi_pool import RoIPool

IMAGE, EMPTY = torch.rand(3, 64, 96), dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


@pytest.fixture(scope="module")
def model():
    "Three classes, background included."
    return compact_faster_rcnn("small", 3, anchors_from_sizes([[20, 20], [40, 30]])).train()


def target(boxes=((5, 5, 20, 30), (30, 10, 60, 50)), labels=(1, 2), **tensors):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels), **tensors}


def sentence(call, kind=ValueError):
    "The error's message, which must be one line that ends without a stack of causes."
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and len(message) < 330, message
    return message


BAD_TARGETS = {
    "no width": (target(boxes=[[5, 5, 20, 30], [30, 10, 30, 50]]), ValueError,
                 "target 1: box 1 is [30.0, 10.0, 30.0, 50.0]; all bounding boxes should have positive height and width"),
    "no height": (target(boxes=[[5, 5, 20, 30], [30, 10, 40, 10]]), ValueError, "target 1: box 1 is [30.0, 10.0, 40.0, 10.0]"),
    "corners exchanged": (target(boxes=[[20, 30, 5, 5], [30, 10, 60, 50]]), ValueError, "target 1: box 0 is [20.0, 30.0, 5.0, 5.0]"),
    "not a number": (target(boxes=[[5, 5, 20, 30], [30, float("nan"), 60, 50]]), ValueError, "target 1: box 1 is [30.0, nan, 60.0, 50.0]"),
    "infinite": (target(boxes=[[5, 5, float("inf"), 30], [30, 10, 60, 50]]), ValueError, "target 1: box 0 is [5.0, 5.0, inf, 30.0]"),
    "five columns": (target(boxes=torch.rand(2, 5).tolist()), ValueError, "target 1: boxes have shape (2, 5), expected (R, 4)"),
    "one box without its row": (target(boxes=[5, 5, 20, 30], labels=[1]), ValueError, "target 1: boxes have shape (4,), expected (R, 4)"),
    "an empty list of boxes": (target(boxes=[], labels=[]), ValueError, "target 1: boxes have shape (0,), expected (R, 4)"),
    "whole numbers as boxes": ({**target(), "boxes": torch.tensor([[5, 5, 20, 30], [30, 10, 60, 50]])}, TypeError,
                               "target 1: boxes are torch.int64, expected floats"),
    "label 0": (target(labels=[1, 0]), ValueError, "target 1: label 1 is 0; classes are 1 … 2 and 0 is background"),
    "a label too high": (target(labels=[3, 1]), ValueError, "target 1: label 0 is 3; classes are 1 … 2 and 0 is background"),
    "a negative label": (target(labels=[1, -1]), ValueError, "target 1: label 1 is -1; classes are 1 … 2"),
    "float labels": (target(labels=[1.0, 2.0]), TypeError, "target 1: labels are torch.float32 of shape (2,), expected int64 of shape (2,)"),
    "a label too few": (target(labels=[1]), TypeError, "target 1: labels are torch.int64 of shape (1,), expected int64 of shape (2,)"),
    "a label too many": (target(labels=[1, 2, 1]), TypeError, "expected int64 of shape (2,)"),
    "labels as a column": (target(labels=[[1], [2]]), TypeError, "target 1: labels are torch.int64 of shape (2, 1)"),
    "no boxes key": ({"labels": torch.tensor([1])}, ValueError, "target 1 has no tensor 'boxes': give boxes (R, 4) and labels (R,)"),
    "no labels key": ({"boxes": torch.rand(1, 4)}, ValueError, "target 1 has no tensor 'labels'"),
    "a list as boxes": ({**target(), "boxes": [[5, 5, 20, 30]]}, ValueError, "target 1 has no tensor 'boxes'"),
    "no target at all": (None, TypeError, "target 1 is a NoneType: give a dict with boxes (R, 4) and labels (R,)"),
    "boxes instead of a dict": (torch.rand(1, 4), TypeError, "target 1 is a Tensor: give a dict with boxes (R, 4) and labels (R,)"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_targets(case, model):
    wrong, kind, words = BAD_TARGETS[case]
    calls = [lambda: model([IMAGE, IMAGE], [target(), wrong])]
    calls.append(lambda: model.eval().losses_and_detections([IMAGE, IMAGE], [target(), wrong]))
    for call in calls:
        try:
            assert words in sentence(call, kind)
        finally:
            model.train()


@pytest.mark.parametrize("targets, words", [
    (None, "targets are missing: training needs the boxes and labels of each image"),
    ([target()], "2 images but 1 targets: give one target an image"),
    ([], "2 images but 0 targets: give one target an image"),
    ([target()] * 3, "2 images but 3 targets: give one target an image"),
])
def test_number_of_targets(targets, words, model):
    assert sentence(lambda: model([IMAGE, IMAGE], targets)) == words


def test_one_dict_instead_of_a_list(model):
    assert "the targets are a dict: give a list with one dict an image" in sentence(lambda: model([IMAGE], target()), TypeError)


def test_wrong_targets_are_not_looked_at_in_testing(model):
    with torch.no_grad():
        assert len(model.eval()([IMAGE], [{"boxes": "none"}])) == 1
    model.train()


BAD_IMAGES = {
    "no image": ([], ValueError, "the list of images is empty: give at least one tensor [C, H, W]"),
    "no pixels": ([IMAGE, torch.rand(3, 0, 40)], ValueError, "image 1 has no pixels: its shape is (3, 0, 40)"),
    "no channels": ([IMAGE, torch.rand(0, 40, 40)], ValueError, "image 1 has no pixels: its shape is (0, 40, 40)"),
    "no third dimension": ([IMAGE, torch.rand(40, 40)], ValueError, "got (40, 40) for image 1"),
    "a batch in the list": ([torch.rand(1, 3, 40, 40)], ValueError, "got (1, 3, 40, 40) for image 0: give a list, also for one image"),
    "an image without its list": (torch.rand(3, 40, 40), ValueError, "got (40, 40) for image 0: give a list, also for one image"),
    "bytes": ([IMAGE, torch.zeros(3, 40, 40, dtype=torch.uint8)], TypeError, "found type torch.uint8 instead in image 1: divide bytes by 255"),
    "two channels": ([IMAGE, torch.rand(2, 40, 40)], ValueError, "image 1 has 2 channels, but image_mean has 3 values"),
    "channels last": ([torch.rand(40, 50, 3)], ValueError, "image 0 has 40 channels, but image_mean has 3 values: give images of 3 channels"),
    "an array": ([IMAGE.numpy()], TypeError, "image 0 is a ndarray: give tensors [C, H, W] of floats in [0, 1]"),
    "a path": (["head.png"], TypeError, "image 0 is a str: give tensors"),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "testing"])
@pytest.mark.parametrize("case", BAD_IMAGES)
def test_images(case, training, model):
    images, kind, words = BAD_IMAGES[case]
    assert words in sentence(lambda: model.train(training)(images, [EMPTY] * len(images)), kind)
    model.train()


def test_a_batch_tensor_is_a_list_of_images(model):
    with torch.no_grad():
        assert len(model.eval()(torch.rand(2, 3, 40, 40))) == 2
    model.train()


@pytest.mark.parametrize("call, words", [
    (lambda: RoIAlign(7, 1.0, 2)(torch.rand(1, 2, 8, 8), torch.tensor([[0., 1, 1, 4, 4], [1., 1, 1, 4, 4]])),
     "RoI 1 is [1.0, 1.0, 1.0, 4.0, 4.0] (image, x1, y1, x2, y2): all must be finite, the image one of 0 … 0"),
    (lambda: RoIPool(7, 1.0)(torch.rand(1, 2, 8, 8), [torch.tensor([[1., 1, float("nan"), 4]])]), "RoI 0 is [0.0, 1.0, 1.0, nan, 4.0]"),
    (lambda: RoIPool(7, 1.0)(torch.rand(1, 2, 8, 8), [torch.rand(2, 5)]), "the RoIs of image 0 have shape (2, 5): give (R, 4)"),
    (lambda: masks_to_boxes(torch.stack((torch.ones(3, 3), torch.zeros(3, 3)))), "mask 1 is empty"),
    (lambda: AnchorGenerator(((8,), (16,)), (0.5, 1.0)).levels((32, 32), [(4, 4)]), "1 feature maps but anchors for 2 levels"),
    (lambda: AnchorGenerator(((8,), (16,)), ((0.5, 1.0),)), "sizes has 2 levels but aspect_ratios has 1: give one entry a level"),
])
def test_parts(call, words):
    assert words in sentence(call)


# --- weights

def small_detector(classes=4, **kwargs):
    return fasterrcnn_mobilenet_v3_large_320_fpn(weights_backbone=None, num_classes=classes, min_size=64, **kwargs)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    "A whole detector of 3 classes, as a file of each kind."
    folder = tmp_path_factory.mktemp("weights")
    state = small_detector(3).state_dict()
    save_file(state, folder / "three.safetensors")
    torch.save(state, folder / "three.pth")
    return folder


class Intruder:
    "What a pickle of a stranger can be: a call, made while it is read."
    def __reduce__(self):
        return os.mkdir, (str(self.path),)

    def __init__(self, path):
        self.path = path


def test_a_checkpoint_that_fits_is_read(checkpoint):
    for kind in ("safetensors", "pth"):
        model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=checkpoint / f"three.{kind}")
        assert model.num_classes() == 3


def test_another_number_of_classes(checkpoint):
    for kind in ("safetensors", "pth"):
        file = checkpoint / f"three.{kind}"
        assert sentence(lambda file=file: small_detector(5, weights=file)) == (
            f"num_classes is 5 but weights file {file.name} has 3 classes, background included: leave num_classes out and "
            "replace model.roi_heads.box_predictor afterwards")


def test_a_checkpoint_of_another_shape(checkpoint, tmp_path):
    state = torch.load(checkpoint / "three.pth", weights_only=True)
    state["rpn.head.cls_logits.weight"] = torch.zeros(9, 256, 1, 1)
    torch.save(state, tmp_path / "nine.pth")
    assert sentence(lambda: small_detector(None, weights=tmp_path / "nine.pth")) == (
        "weights file nine.pth: 'rpn.head.cls_logits.weight' has shape (9, 256, 1, 1), fasterrcnn_mobilenet_v3_large_320_fpn "
        "needs (15, 256, 1, 1)")
    del state["rpn.head.cls_logits.weight"]
    torch.save(state, tmp_path / "less.pth")
    assert sentence(lambda: small_detector(None, weights=tmp_path / "less.pth")) == (
        "weights file less.pth has no 'rpn.head.cls_logits.weight': it does not belong to fasterrcnn_mobilenet_v3_large_320_fpn")
    # A detector with another backbone, and a backbone where a detector should be.
    assert "weights file three.pth" in sentence(lambda: fasterrcnn_resnet50_fpn(weights=checkpoint / "three.pth"))
    torch.save(build_backbone("small").state_dict(), tmp_path / "backbone.pth")
    assert sentence(lambda: small_detector(None, weights=tmp_path / "backbone.pth")) == (
        "weights file backbone.pth has no 'roi_heads.box_predictor.cls_score.weight': give the weights of a whole detector, "
        "or use weights_backbone")


@pytest.mark.parametrize("name, content, words", [
    ("gone.pth", None, "weights file gone.pth does not exist: give the path of a .safetensors or .pth file"),
    ("gone.safetensors", None, "weights file gone.safetensors does not exist"),
    ("empty.pth", b"", "weights file empty.pth cannot be read as tensors: save the model's state_dict as .safetensors or .pth"),
    ("empty.safetensors", b"", "weights file empty.safetensors cannot be read as tensors"),
    ("page.pth", b"<html>not found</html>", "weights file page.pth cannot be read as tensors"),
    ("list.pth", [1, 2], "weights file list.pth holds a list, not named tensors: save the model's state_dict"),
    ("numbers.pth", {"roi_heads.box_predictor.cls_score.weight": 3}, "weights file numbers.pth: 'roi_heads.box_predictor.cls_score.weight' "
     "is of type int, not a tensor: save the model's state_dict"),
])
def test_files_of_something_else(name, content, words, tmp_path):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    kind = FileNotFoundError if content is None else ValueError
    assert words in sentence(lambda: small_detector(weights=path), kind)
    assert words in sentence(lambda: small_detector(weights=str(path)), kind)
    assert words in sentence(lambda: load_weights(build_backbone("small"), path), kind)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_file_that_was_cut_off(kind, checkpoint, tmp_path):
    path = tmp_path / f"half.{kind}"
    whole = (checkpoint / f"three.{kind}").read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    assert sentence(lambda: small_detector(3, weights=path)).startswith(f"weights file half.{kind} cannot be read as tensors")


def test_a_folder_instead_of_a_file(tmp_path):
    assert "does not exist" in sentence(lambda: small_detector(weights=Path(tmp_path)), FileNotFoundError)


def test_a_pickle_is_not_executed(tmp_path):
    trap = tmp_path / "trap"
    torch.save({"weight": Intruder(trap)}, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Intruder(trap)))
    for name in ("new.pth", "old.pth"):
        assert f"weights file {name} cannot be read as tensors" in sentence(lambda name=name: small_detector(weights=tmp_path / name))
        assert not trap.exists()
    torch.load(tmp_path / "new.pth", weights_only=False)      # the trap is real
    assert trap.exists()


def test_a_name_that_no_weights_have():
    known = "give COCO_V1, DEFAULT, or the path of a .safetensors or .pth file"
    for name in ("COCO_V9", "DEFAULT_V1", 7):
        assert sentence(lambda name=name: small_detector(weights=name)).endswith(known)
    assert "has no weights 'IMAGENET1K_V9': give one of IMAGENET1K_V1" in sentence(
        lambda: fasterrcnn_mobilenet_v3_large_320_fpn(weights_backbone="IMAGENET1K_V9"))
    assert "this detector has no weights 'COCO_V1': give the path" in sentence(lambda: fasterrcnn_vgg16(weights="COCO_V1"))
    assert "the backbone 'resnet19' is unknown" in sentence(lambda: build_backbone("resnet19"))


def test_no_network(tmp_path, monkeypatch):
    "torchvision's own download is tried, into an empty cache; what it says is turned into what to do."
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    unreachable = mock.patch.object(torch.hub, "urlopen", side_effect=URLError("no route to host"))
    with unreachable as opened:
        for weights in (FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1, "COCO_V1", "DEFAULT"):
            assert sentence(lambda w=weights: fasterrcnn_mobilenet_v3_large_320_fpn(weights=w, progress=False), OSError) == (
                "the weights FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1 could not be downloaded: without network, "
                "give the path of a file with them, or none")
        for weights in (MobileNet_V3_Large_Weights.IMAGENET1K_V1, "IMAGENET1K_V1"):
            message = sentence(
                lambda w=weights: fasterrcnn_mobilenet_v3_large_320_fpn(weights_backbone=w, progress=False), OSError)
            assert message.endswith("of mobilenet_v3_large could not be downloaded: without network, give the path of a file "
                                    "with them, or none")
        assert opened.call_count == 5


def test_a_download_that_was_cut_off(tmp_path, monkeypatch):
    "torchvision compares the hash; its sentence about that becomes ours."
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    answer = mock.MagicMock(read=io.BytesIO(b"half a file").read, info=Message)
    with mock.patch.object(torch.hub, "urlopen", return_value=answer):
        message = sentence(lambda: fasterrcnn_mobilenet_v3_large_320_fpn(weights="COCO_V1", progress=False), OSError)
    assert "could not be downloaded" in message
