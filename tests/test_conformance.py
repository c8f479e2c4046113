"The assembled detector against torchvision's, in float64: losses, gradients, proposals, detections, weights."
import copy

import pytest
import torch
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import anchor_utils, faster_rcnn
from torchvision.ops import MultiScaleRoIAlign as TorchvisionRoIAlign

from frcnn_nbdev.anchors import AnchorGenerator
from frcnn_nbdev.faster_rcnn import FasterRCNN
from frcnn_nbdev.features import resnet_c4_backbone
from frcnn_nbdev.head import FastRCNNPredictor, TwoMLPHead
from frcnn_nbdev.roi_pool import MultiScaleRoIAlign

OURS = (AnchorGenerator, MultiScaleRoIAlign, TwoMLPHead, FastRCNNPredictor, FasterRCNN)
THEIRS = (anchor_utils.AnchorGenerator, TorchvisionRoIAlign, faster_rcnn.TwoMLPHead, faster_rcnn.FastRCNNPredictor,
          TorchvisionFasterRCNN)


def assemble(parts, backbone, dtype):
    anchors, pool, head, predictor, detector = parts
    return detector(
        backbone, min_size=100, max_size=170, rpn_anchor_generator=anchors(((16, 32, 64),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=pool(["0"], 7, 2), box_head=head(256 * 49, 64), box_predictor=predictor(64, 5),
        rpn_pre_nms_top_n_train=300, rpn_post_nms_top_n_train=100, rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=100, box_score_thresh=0.0).to(dtype)


def pair(dtype):
    torch.manual_seed(0)
    backbone = resnet_c4_backbone("resnet18")
    theirs, ours = assemble(THEIRS, copy.deepcopy(backbone), dtype), assemble(OURS, backbone, dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def batch(dtype):
    "Oblong images of three sizes: overlapping and repeated boxes, one box, no box."
    torch.manual_seed(1)
    images = [torch.rand(3, 120, 180, dtype=dtype), torch.rand(3, 90, 100, dtype=dtype), torch.rand(3, 100, 64, dtype=dtype)]
    boxes = [[[10, 10, 60, 50], [40, 30, 100, 90], [10, 10, 60, 50]], [[5, 5, 50, 80]], []]
    targets = [{"boxes": torch.tensor(b, dtype=dtype).reshape(-1, 4), "labels": torch.arange(1, len(b) + 1)} for b in boxes]
    return images, targets


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_losses_and_gradients(dtype, tolerance):
    (ours, theirs), (images, targets) = pair(dtype), batch(dtype)
    losses = []
    for model in (ours, theirs):
        torch.manual_seed(2)       # both draw their samples from the default generator, in the same order
        losses.append(model(images, targets))
        sum(losses[-1].values()).backward()
    assert sorted(losses[0]) == sorted(losses[1])
    for name in losses[0]:
        # torchvision's objectness labels are float32, which rounds this loss to float32 in a float64 model.
        atol = 1e-6 if name == "loss_objectness" else tolerance
        torch.testing.assert_close(losses[0][name], losses[1][name], rtol=tolerance, atol=atol, check_dtype=False)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters()):
        scale = other.grad.abs().max().item()
        assert (mine.grad - other.grad).abs().max().item() <= tolerance * max(scale, 1e-12), name


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_detections(dtype, tolerance):
    (ours, theirs), (images, _) = pair(dtype), batch(dtype)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        for mine, other in zip(ours(images), theirs(images)):
            assert len(mine["boxes"]) == 100
            assert torch.equal(mine["labels"], other["labels"])
            torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=0, atol=tolerance)
            torch.testing.assert_close(mine["scores"], other["scores"], rtol=0, atol=tolerance)


def test_losses_and_detections_of_one_pass_equal_those_of_two():
    (ours, _), (images, targets) = pair(torch.float32), batch(torch.float32)
    ours.eval()
    with torch.no_grad():
        losses, detections = ours.losses_and_detections(images, targets, generator=torch.Generator().manual_seed(3))
        again = ours(images)
    for mine, other in zip(detections, again):
        assert torch.equal(mine["boxes"], other["boxes"]) and torch.equal(mine["scores"], other["scores"])
    assert sorted(losses) == ["loss_box_reg", "loss_classifier", "loss_objectness", "loss_rpn_box_reg"]
    assert all(value.isfinite() for value in losses.values())


BAD_TARGETS = {
    "no area": (dict(boxes=[[1., 1, 1, 9]], labels=[1]), "target 0: box 0"),
    "not finite": (dict(boxes=[[1., 1, float("nan"), 9]], labels=[1]), "target 0: box 0"),
    "background as a class": (dict(boxes=[[1., 1, 5, 9]], labels=[0]), "target 0: label 0 is 0"),
    "class too large": (dict(boxes=[[1., 1, 5, 9]], labels=[5]), "target 0: label 0 is 5"),
    "wrong shape": (dict(boxes=[[1., 1, 5]], labels=[1]), r"target 0: boxes have shape \(1, 3\)"),
    "labels missing": (dict(boxes=[[1., 1, 5, 9]], labels=[]), "target 0: labels"),
}


@pytest.mark.parametrize("target, message", BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_bad_targets_are_refused_by_name(target, message):
    ours, _ = pair(torch.float32)
    target = {"boxes": torch.tensor(target["boxes"]), "labels": torch.tensor(target["labels"], dtype=torch.int64)}
    with pytest.raises((ValueError, TypeError), match=message):
        ours.train()([torch.rand(3, 64, 64)], [target])


def test_bad_images_are_refused_by_index():
    ours, _ = pair(torch.float32)
    ours.eval()
    with pytest.raises(TypeError, match="image 1"):
        ours([torch.rand(3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="image 0 has no pixels"):
        ours([torch.rand(3, 0, 64)])
    with pytest.raises(ValueError, match="1 images but 2 targets"):
        ours.train()([torch.rand(3, 64, 64)], [{}, {}])
