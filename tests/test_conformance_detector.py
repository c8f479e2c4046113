"The assembled detector against torchvision's, stage by stage: anchors, head, proposals, matches, samples, losses, gradients."
import copy
import inspect
from contextlib import ExitStack
from unittest import mock

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close
from torchvision.models import detection
from torchvision.models.detection import anchor_utils, faster_rcnn, image_list, rpn
from torchvision.ops import MultiScaleRoIAlign as TorchvisionRoIAlign

import frcnn_nbdev.faster_rcnn as ours_library
import frcnn_nbdev.head
import frcnn_nbdev.rpn
from frcnn_nbdev.anchors import AnchorGenerator
from frcnn_nbdev.faster_rcnn import FasterRCNN, ImageList, fasterrcnn_vgg16
from frcnn_nbdev.features import resnet_c4_backbone
from frcnn_nbdev.head import FastRCNNPredictor, TwoMLPHead
from frcnn_nbdev.roi_align import MultiScaleRoIAlign
from frcnn_nbdev.rpn import RPNHead, flatten_head_output

OURS = (AnchorGenerator, MultiScaleRoIAlign, TwoMLPHead, FastRCNNPredictor, FasterRCNN)
THEIRS = (anchor_utils.AnchorGenerator, TorchvisionRoIAlign, faster_rcnn.TwoMLPHead, faster_rcnn.FastRCNNPredictor,
          detection.FasterRCNN)
BUILDERS = ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn",
            "fasterrcnn_mobilenet_v3_large_320_fpn")
ATTRIBUTES = ("min_size", "max_size", "image_mean", "image_std", "size_divisible", "pre_nms_top_n", "post_nms_top_n",
              "nms_thresh", "score_thresh", "detections_per_img")


def assemble(parts, backbone, **kwargs):
    "A ResNet-18 C4 detector of the parts of one library."
    anchors, pool, head, predictor, detector = parts
    settings = dict(
        min_size=100, max_size=170, rpn_anchor_generator=anchors(((16, 32, 64),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=pool(["0"], 7, 2), box_head=head(256 * 49, 64), box_predictor=predictor(64, 5),
        rpn_pre_nms_top_n_train=300, rpn_post_nms_top_n_train=100, rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=100, box_score_thresh=0.0)
    return detector(backbone, **{**settings, **kwargs})


def composed(**kwargs):
    backbone = resnet_c4_backbone("resnet18")
    return assemble(OURS, backbone, **kwargs), assemble(THEIRS, copy.deepcopy(backbone), **kwargs)


def tiny(**kwargs):
    "Detectors of two convolutions, stride 8: for what does not depend on the backbone."
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    backbone.out_channels = 16
    pair = []
    for parts in (OURS, THEIRS):
        settings = {name: value(*parts) if callable(value) else value for name, value in kwargs.items()}
        if "box_head" not in settings:
            settings["box_head"] = parts[2](16 * 49, 64)
        pair.append(assemble(parts, copy.deepcopy(backbone), **settings))
    return tuple(pair)


def built(name, **kwargs):
    # Few proposals: the heads' products in float64 would take most of the time. The defaults are compared elsewhere.
    few = {f"rpn_{when}_nms_top_n_{mode}": 32 for when in ("pre", "post") for mode in ("train", "test")}
    settings = dict(weights_backbone=None, num_classes=5, min_size=64, max_size=96, box_score_thresh=0.0,
                    rpn_score_thresh=0.0, box_batch_size_per_image=16, **few)
    return tuple(getattr(library, name)(**{**settings, **kwargs}) for library in (ours_library, detection))


def vgg16_pair(**kwargs):
    "VGG16, which torchvision has no builder for: its classes, put together in the same way."
    settings = dict(min_size=64, max_size=96, box_score_thresh=0.0, box_batch_size_per_image=16,
                    rpn_post_nms_top_n_test=60, **kwargs)
    ours = fasterrcnn_vgg16(weights_backbone=None, num_classes=5, head_width=32, **settings)
    backbone = torchvision.models.vgg16().features[:-1]
    backbone.out_channels = 512
    theirs = detection.FasterRCNN(
        backbone, rpn_anchor_generator=anchor_utils.AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=TorchvisionRoIAlign(["0"], 7, 2), box_head=faster_rcnn.TwoMLPHead(512 * 49, 32),
        box_predictor=faster_rcnn.FastRCNNPredictor(32, 5), **settings)
    return ours, theirs


def alike(pair, dtype=torch.float64, seed=0):
    "Both detectors with the same weights; larger ones in the RPN and the predictor, so that boxes differ from anchors."
    ours, theirs = (model.to(dtype) for model in pair)
    generator = torch.Generator().manual_seed(seed)
    state = theirs.state_dict()
    for key, value in state.items():
        if key.startswith(("rpn.head.cls", "rpn.head.bbox", "roi_heads.box_predictor")) and value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator).to(dtype) * 0.05)
    theirs.load_state_dict(state)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def batch(dtype=torch.float64):
    "Oblong images of three sizes: overlapping and repeated boxes (a tie), one box, no box."
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, *size, generator=generator).to(dtype) for size in [(120, 180), (90, 100), (100, 64)]]
    boxes = [[[10, 10, 60, 50], [40, 30, 100, 90], [10, 10, 60, 50]], [[5, 5, 50, 80]], []]
    targets = [{"boxes": torch.tensor(b, dtype=dtype).reshape(-1, 4), "labels": torch.arange(1, len(b) + 1)} for b in boxes]
    return images, targets


def record(into, name, function):
    "The function, which also notes what it gives."
    def noted(*args, **kwargs):
        into[name] = function(*args, **kwargs)
        return into[name]
    return noted


def lose(proposals):
    "The proposals, those of the last image gone."
    return [*proposals[:-1], proposals[-1][:0]]


def run_ours(model, images, targets, no_proposals=False):
    "Losses of our detector, and what its stages gave in between, in torchvision's shapes."
    noted, rpn_, head_ = {}, frcnn_nbdev.rpn, frcnn_nbdev.head
    def select(*args, **kwargs):
        proposals, scores = select_proposals(*args, **kwargs)
        return (lose(proposals) if no_proposals else proposals), scores
    select_proposals = rpn_.select_proposals
    with ExitStack() as stack:
        for module, name, function in [
                (rpn_, "anchors_of_levels", rpn_.anchors_of_levels), (rpn_, "select_proposals", select),
                (rpn_, "assign_anchors", rpn_.assign_anchors), (rpn_, "sample_anchors", rpn_.sample_anchors),
                (head_, "sample_proposals", head_.sample_proposals), (model.rpn.head, "forward", model.rpn.head.forward)]:
            stack.enter_context(mock.patch.object(module, name, record(noted, name, function)))
        torch.manual_seed(2)
        losses = model(images, targets)
    logits, deltas = noted["forward"]
    rois, labels, roi_deltas = noted["sample_proposals"]
    return losses, dict(
        anchors=torch.cat(noted["anchors_of_levels"]), labels=noted["assign_anchors"][0],
        logits=torch.cat([flatten_head_output(x, 1) for x in logits], dim=1).flatten(),
        deltas=torch.cat([flatten_head_output(x, 4) for x in deltas], dim=1).flatten(0, 1),
        proposals=noted["select_proposals"][0], positive=noted["sample_anchors"][0],
        negative=noted["sample_anchors"][1], rois=rois, roi_labels=labels, roi_deltas=roi_deltas)


def run_theirs(model, images, targets, no_proposals=False):
    "The same of torchvision's."
    noted, stages, heads = {}, model.rpn, model.roi_heads
    def select(*args, **kwargs):
        proposals, scores = filter_proposals(*args, **kwargs)
        return (lose(proposals) if no_proposals else proposals), scores
    filter_proposals = stages.filter_proposals
    with ExitStack() as stack:
        for thing, name, function in [
                (stages.anchor_generator, "forward", stages.anchor_generator.forward),
                (rpn, "concat_box_prediction_layers", rpn.concat_box_prediction_layers),
                (stages, "filter_proposals", select),
                (stages, "assign_targets_to_anchors", stages.assign_targets_to_anchors),
                (stages, "fg_bg_sampler", stages.fg_bg_sampler),
                (heads, "select_training_samples", heads.select_training_samples)]:
            stack.enter_context(mock.patch.object(thing, name, record(noted, name, function)))
        torch.manual_seed(2)
        losses = model(images, targets)
    logits, deltas = noted["concat_box_prediction_layers"]
    rois, _, labels, roi_deltas = noted["select_training_samples"]
    positive, negative = (torch.where(torch.cat(m))[0] for m in noted["fg_bg_sampler"])
    return losses, dict(
        anchors=noted["forward"][0], labels=torch.stack(noted["assign_targets_to_anchors"][0]).to(torch.int64),
        logits=logits.flatten(), deltas=deltas, proposals=noted["filter_proposals"][0], positive=positive,
        negative=negative, rois=rois, roi_labels=torch.cat(labels), roi_deltas=torch.cat(roi_deltas))


def compare_training(pair, tolerance=1e-9, no_proposals=False, batch_of=batch):
    "Every stage, loss and gradient of one training step; returns our notes."
    ours, theirs = pair
    images, targets = batch_of(next(ours.parameters()).dtype)
    losses, stages = run_ours(ours.train(), images, targets, no_proposals)
    their_losses, their_stages = run_theirs(theirs.train(), images, targets, no_proposals)
    for name, expected in their_stages.items():
        rows = stages[name] if isinstance(expected, list) else [stages[name]]
        for mine, other in zip(rows, expected if isinstance(expected, list) else [expected], strict=True):
            if not other.is_floating_point():
                assert torch.equal(mine, other), name
                continue
            objects = stages["roi_labels"] > 0 if name == "roi_deltas" else slice(None)    # else never read
            assert_close(mine[objects], other[objects], rtol=tolerance, atol=tolerance * max(1, other.abs().max().item())
                         if other.numel() else 0, msg=lambda text, name=name: f"{name}: {text}")
    assert sorted(losses) == sorted(their_losses)
    for name in losses:
        # torchvision's objectness labels are float32, which rounds this loss to float32 in a float64 model.
        atol = 1e-6 if name == "loss_objectness" else tolerance
        assert_close(losses[name], their_losses[name], rtol=tolerance, atol=atol, check_dtype=False)
    sum(losses.values()).backward()
    sum(their_losses.values()).backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if other.grad is None:
            assert mine.grad is None, name
            continue
        scale = other.grad.abs().max().item()
        assert (mine.grad - other.grad).abs().max().item() <= tolerance * max(scale, 1e-6), name
    return stages


def compare_detections(pair, tolerance=1e-9, batch_of=batch):
    ours, theirs = pair
    images, _ = batch_of(next(ours.parameters()).dtype)
    with torch.no_grad():
        found, expected = ours.eval()(images), theirs.eval()(images)
    assert [len(f["boxes"]) for f in found] == [len(e["boxes"]) for e in expected]
    for mine, other in zip(found, expected):
        assert list(mine) == list(other) == ["boxes", "labels", "scores"]
        assert torch.equal(mine["labels"], other["labels"])
        assert_close(mine["boxes"], other["boxes"], rtol=0, atol=tolerance * 200)
        assert_close(mine["scores"], other["scores"], rtol=0, atol=tolerance)
    return found


# --- the composed detector

def test_training_stage_by_stage_in_float64():
    pair = alike(composed())
    stages = compare_training(pair)
    assert [len(p) for p in stages["proposals"]] == [100] * 3
    assert (stages["labels"] == -1).any() and (stages["labels"] == 1).any()      # ignored and positive anchors
    assert (stages["labels"][2] == 0).all()                                      # an image without objects
    assert stages["roi_labels"].unique().tolist() == [0, 1, 2]      # the third box repeats the first, which wins


def test_training_in_float32():
    compare_training(alike(composed(), torch.float32), tolerance=1e-4)


def test_an_image_without_proposals():
    stages = compare_training(alike(composed()), no_proposals=True)
    assert [len(p) for p in stages["proposals"]] == [100, 100, 0]
    assert len(stages["rois"][2]) == 0


def test_no_proposals_and_no_objects_in_the_whole_batch():
    "Nothing to learn from for the head: its losses are 0. torchvision's are 0 / 0."
    (ours, theirs), (images, targets) = alike(tiny()), batch()
    losses, _ = run_ours(ours, images[2:], targets[2:], no_proposals=True)
    their_losses, _ = run_theirs(theirs, images[2:], targets[2:], no_proposals=True)
    assert losses["loss_classifier"] == losses["loss_box_reg"] == 0
    assert their_losses["loss_classifier"].isnan() and their_losses["loss_box_reg"].isnan()
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())


@pytest.mark.parametrize("rois, exchanged", [(8, False), (512, True)])
def test_both_orders_of_pooling_and_first_layer(rois, exchanged):
    "With many RoIs on few cells the head's first layer comes before the pooling: the same numbers and gradients."
    pair = alike(composed(box_batch_size_per_image=rois, rpn_post_nms_top_n_train=400, rpn_pre_nms_top_n_train=600,
                          rpn_pre_nms_top_n_test=600, rpn_post_nms_top_n_test=600, rpn_nms_thresh=0.9))
    with mock.patch.object(frcnn_nbdev.head, "linear_of_pooled", wraps=frcnn_nbdev.head.linear_of_pooled) as used:
        compare_training(pair)
    assert used.called == exchanged
    with mock.patch.object(frcnn_nbdev.head, "linear_of_pooled", wraps=frcnn_nbdev.head.linear_of_pooled) as used:
        compare_detections(pair)
    assert used.called


def test_iou_exactly_on_the_thresholds():
    "Anchors and proposals whose IoU is 0.7, 0.5 and 0.3 to the last bit: at or above, and below, as torchvision has it."
    matchers = frcnn_nbdev.iou.Matcher, detection._utils.Matcher
    iou = torch.tensor([[0.7, 0.3, 0.5, 0.2999999, 0.6999999, 0.0, 0.5], [0.7, 0.1, 0.5, 0.3, 0.2, 0.0, 0.4]])
    for high, low, low_quality in [(0.7, 0.3, True), (0.5, 0.5, False), (0.7, 0.3, False)]:
        mine, other = (matcher(high, low, low_quality)(iou) for matcher in matchers)
        assert torch.equal(mine, other)
    assert frcnn_nbdev.iou.Matcher(0.7, 0.3)(iou).tolist() == [0, -2, -2, -2, -2, -1, -2]


def test_boxes_on_the_anchors_and_on_their_thresholds():
    "Objects that are anchors (IoU 1), half anchors (IoU 0.5) and three tenths of one; each twice, so that they tie."
    def thresholds(dtype):
        anchors = [[32., 32, 64, 64], [32., 32, 64, 48], [64., 32, 96, 41.6]]
        target = {"boxes": torch.tensor(anchors * 2, dtype=dtype), "labels": torch.tensor([1, 2, 3, 4, 3, 2])}
        return [torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0)).to(dtype)], [target]
    stages = compare_training(alike(composed(min_size=128, max_size=128)), batch_of=thresholds)
    assert (stages["labels"] == 1).sum() >= 2


# What each of the 27 arguments is changed to; a function makes it of the parts of one library.
ARGUMENTS = {
    "min_size": (60, 70), "max_size": 120, "image_mean": (0.4, 0.5, 0.6), "image_std": (0.2, 0.3, 0.4),
    "rpn_anchor_generator": lambda anchors, *_: anchors(((24, 48),), ((0.4, 1.0),)),
    "rpn_head": lambda *_: rpn.RPNHead(16, 9, conv_depth=2),
    "rpn_pre_nms_top_n_train": 40, "rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_train": 20,
    "rpn_post_nms_top_n_test": 20, "rpn_nms_thresh": 0.3, "rpn_fg_iou_thresh": 0.5, "rpn_bg_iou_thresh": 0.1,
    "rpn_batch_size_per_image": 16, "rpn_positive_fraction": 0.02, "rpn_score_thresh": 0.55,
    "box_roi_pool": lambda _, pool, *__: pool(["0"], 7, 3),
    "box_head": lambda _, __, head, *___: head(16 * 49, 64).requires_grad_(False),
    "box_predictor": lambda _, __, ___, predictor, ____: predictor(64, 4),
    "box_score_thresh": 0.4, "box_nms_thresh": 0.2, "box_detections_per_img": 3, "box_fg_iou_thresh": 0.9,
    "box_bg_iou_thresh": 0.2, "box_batch_size_per_image": 16, "box_positive_fraction": 0.002,
    "bbox_reg_weights": (5.0, 6.0, 3.0, 2.0),
}


def test_arguments_are_torchvisions_27():
    names = list(inspect.signature(detection.FasterRCNN).parameters)
    assert names[2:-1] == list(ARGUMENTS) and len(ARGUMENTS) == 27       # less backbone, num_classes and kwargs


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_acts_as_torchvisions(name):
    "Another value of the argument: the same stages, gradients and detections as there, and others than without."
    results = []
    for arguments in ({}, {name: ARGUMENTS[name]}):
        pair = alike(tiny(**arguments))
        stages = compare_training(pair)
        gradients = [p.grad.sum().item() if p.grad is not None else None for p in pair[0].parameters()]
        found = compare_detections(pair)
        results.append((gradients, [len(r) for r in stages["rois"]], [f["boxes"].tolist() for f in found]))
    assert results[0] != results[1]


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_ties_everywhere(value):
    "An image of one colour: inside, every cell says the same. Up to 1000 boxes torchvision keeps their order, too."
    def flat(dtype):
        images, targets = batch(dtype)
        return [torch.full_like(x, value) for x in images], targets
    pair = alike(tiny(rpn_pre_nms_top_n_train=900, rpn_pre_nms_top_n_test=900))
    stages = compare_training(pair, batch_of=flat)
    assert len(stages["logits"].unique()) < len(stages["logits"]) / 3


def test_detections_of_equal_scores():
    "Logits of three values only, so that most scores tie: the same order, and the same boxes survive NMS."
    ours, theirs = alike(tiny())
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(3, (80, 5), generator=generator).double()
    deltas = torch.randint(-2, 3, (80, 20), generator=generator).double()
    proposals = [torch.randint(60, (40, 4), generator=generator).double() + torch.tensor([0., 0, 61, 61]) for _ in range(2)]
    sizes = [(120, 100), (90, 125)]
    theirs.roi_heads.detections_per_img = ours.roi_heads.detections_per_img = 30
    expected = theirs.roi_heads.postprocess_detections(logits, deltas, proposals, sizes)
    with mock.patch.object(ours.roi_heads, "predict", return_value=(logits, deltas)):
        found = ours.roi_heads.detections({}, proposals, sizes)
    for i, mine in enumerate(found):
        assert torch.equal(mine["boxes"], expected[0][i]) and torch.equal(mine["scores"], expected[1][i])
        assert torch.equal(mine["labels"], expected[2][i])
        assert len(mine["scores"]) == 30 > len(mine["scores"].unique())


def test_proposals_that_all_miss():
    "An RPN that is sure of nothing in testing proposes nothing: no detections, and no error."
    found = compare_detections(alike(tiny(rpn_score_thresh=1.0)))
    assert [f["boxes"].shape for f in found] == [(0, 4)] * 3


def test_detections_in_float64_and_float32():
    assert [len(f["boxes"]) for f in compare_detections(alike(composed()))] == [100] * 3
    compare_detections(alike(composed(), torch.float32), tolerance=2e-5)


def test_several_sizes_are_drawn_in_training_and_the_last_is_used_in_testing():
    pair = alike(tiny(min_size=(64, 100, 80)))
    compare_training(pair)
    compare_detections(pair)


def test_arguments_of_the_transform():
    pair = alike(tiny(size_divisible=16, fixed_size=(96, 64), image_mean=[0.5] * 3, image_std=[0.2, 0.3, 0.4]))
    compare_training(pair)
    compare_detections(pair)
    compare_training(alike(tiny(_skip_resize=True)))


def test_native_size():
    "`min_size=None` is `min_size` and `max_size` that change nothing."
    def square(dtype):
        images, targets = batch(dtype)
        return [x[:, :64, :64] for x in images], [{"boxes": t["boxes"].clamp(0, 64)[:1], "labels": t["labels"][:1]}
                                                  for t in targets]
    everything = dict(rpn_batch_size_per_image=2000, box_batch_size_per_image=2000)      # no size to draw, no sample either
    native, _ = tiny(min_size=None, **everything)
    _, theirs = tiny(min_size=64, max_size=64, **everything)
    compare_training(alike((native, theirs)), batch_of=square)
    compare_detections((native, theirs), batch_of=square)


def test_losses_and_detections_of_one_pass_equal_those_of_two():
    (ours, _), (images, targets) = alike(tiny(), torch.float32), batch(torch.float32)
    ours.eval()
    with torch.no_grad():
        losses, detections = ours.losses_and_detections(images, targets, generator=torch.Generator().manual_seed(3))
        again = ours(images)
    for mine, other in zip(detections, again):
        assert torch.equal(mine["boxes"], other["boxes"]) and torch.equal(mine["scores"], other["scores"])
    assert sorted(losses) == ["loss_box_reg", "loss_classifier", "loss_objectness", "loss_rpn_box_reg"]
    assert all(value.isfinite() for value in losses.values())


# --- the builders

@pytest.mark.parametrize("name", BUILDERS)
def test_builders_train_and_detect_as_torchvisions(name):
    # Normalisation by the statistics of a few cells magnifies rounding: the tolerance of v2's pyramid is wider.
    pair = alike(built(name))
    compare_training(pair)
    compare_detections(pair)


def test_the_composed_resnet50_c4_of_the_source():
    "A ResNet-50 up to its third stage as one map, anchors of five sizes, one pooling: put together by hand."
    # Bins of 3×3: with 7×7 the first layer alone has 51 million weights, and the test took 4 GB.
    body = nn.Sequential(*list(torchvision.models.resnet50().children())[:-3])
    body.out_channels = 1024
    def put_together(anchors, pool, head, predictor, detector):
        few = dict(rpn_post_nms_top_n_train=60, rpn_post_nms_top_n_test=40, box_batch_size_per_image=16)
        return detector(copy.deepcopy(body), num_classes=5, rpn_anchor_generator=anchors(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
                        box_roi_pool=pool(["0"], 3, 2), min_size=64, max_size=96, box_score_thresh=0.0, **few)
    pair = alike((put_together(*OURS), put_together(*THEIRS)))
    compare_training(pair)
    compare_detections(pair)
    with pytest.raises(ValueError, match="backbone should contain an attribute out_channels"):      # the source's slip
        FasterRCNN(nn.Sequential(*list(body)), num_classes=3)


def test_vgg16_is_torchvisions_parts_put_together():
    pair = alike(vgg16_pair())
    compare_training(pair)
    compare_detections(pair)


def test_defaults_of_builders_are_torchvisions():
    with torch.device("meta"):
        pairs = [(getattr(ours_library, name)(weights_backbone=None), getattr(detection, name)(weights_backbone=None))
                 for name in BUILDERS]
    for models in pairs:
        mine, other = [
            {**{(part, k): tuple(v) if isinstance(v, (list, tuple)) else v for part in ("transform", "rpn", "roi_heads")
                for k, v in vars(getattr(model, part)).items() if isinstance(v, (int, float, str, tuple, list, dict))
                and k.strip("_") in ATTRIBUTES},
             "sizes": model.rpn.anchor_generator.sizes, "ratios": model.rpn.anchor_generator.aspect_ratios,
             "pool": (model.roi_heads.box_roi_pool.output_size, model.roi_heads.box_roi_pool.sampling_ratio),
             "weights": tuple(getattr(model.roi_heads, "bbox_reg_weights", None) or model.roi_heads.box_coder.weights),
             "frozen": [n for n, p in model.named_parameters() if not p.requires_grad]} for model in models]
        assert mine == other and len(mine) == 5 + 5 + 3 + 5


def test_state_dicts_of_builders_are_torchvisions():
    with torch.device("meta"):
        pairs = [built(name, num_classes=91) for name in BUILDERS] + [vgg16_pair()]
    for ours, theirs in pairs:
        assert [(k, v.shape, v.dtype) for k, v in ours.state_dict().items()] == \
            [(k, v.shape, v.dtype) for k, v in theirs.state_dict().items()]
        ours.load_state_dict(theirs.state_dict(), strict=True)
        theirs.load_state_dict(ours.state_dict(), strict=True)


# --- the interface

def test_signatures():
    for name in (*BUILDERS, "FasterRCNN"):
        mine, other = (inspect.signature(getattr(m, name)).parameters for m in (ours_library, detection))
        assert [(p.name, p.kind, p.default) for p in mine.values()] == [(p.name, p.kind, p.default) for p in other.values()]
    assert len(inspect.signature(FasterRCNN).parameters) == 2 + 27 + 1       # backbone, num_classes; S3's 27; kwargs


def test_names_that_users_import_with_the_detector():
    "Code that takes the classes from torchvision's faster_rcnn and rpn modules finds them in one module here."
    for name in ("FasterRCNN", "FastRCNNPredictor", "FastRCNNConvFCHead", "TwoMLPHead", "AnchorGenerator", "RPNHead",
                 "RegionProposalNetwork", "RoIHeads", "MultiScaleRoIAlign", "ImageList"):
        assert hasattr(ours_library, name), name


def test_attributes_that_users_change():
    ours, theirs = composed(rpn_pre_nms_top_n_test=7)
    for path in ("transform.min_size", "transform.max_size", "transform.image_mean", "transform.size_divisible",
                 "transform.fixed_size", "rpn._pre_nms_top_n", "rpn._post_nms_top_n", "rpn.nms_thresh", "rpn.score_thresh",
                 "rpn.min_size", "roi_heads.score_thresh", "roi_heads.nms_thresh", "roi_heads.detections_per_img",
                 "rpn.head.cls_logits.out_channels", "rpn.anchor_generator.sizes", "rpn.anchor_generator.aspect_ratios",
                 "roi_heads.box_roi_pool.output_size", "roi_heads.box_roi_pool.featmap_names",
                 "roi_heads.box_head.fc6.in_features", "roi_heads.box_predictor.cls_score.in_features"):
        mine, other = ours, theirs
        for part in path.split("."):
            mine, other = getattr(mine, part), getattr(other, part)
        assert mine == other or list(mine) == list(other), path
    for model in (ours.eval(), theirs.eval()):
        assert (model.rpn.pre_nms_top_n(), model.rpn.post_nms_top_n()) == (7, 100)
        assert (model.train().rpn.pre_nms_top_n(), model.rpn.post_nms_top_n()) == (300, 100)
        model.roi_heads.score_thresh, model.roi_heads.nms_thresh, model.roi_heads.detections_per_img = 0.21, 0.3, 4
        model.rpn._pre_nms_top_n["testing"] = 50
        model.transform.min_size, model.transform.max_size = (64,), 90
    found = compare_detections(alike((ours, theirs)))
    assert max(len(f["boxes"]) for f in found) == 4


@pytest.mark.parametrize("library", [ours_library, faster_rcnn], ids=["our predictor", "torchvision's predictor"])
def test_fine_tuning_by_a_new_predictor(library):
    model = ours_library.fasterrcnn_mobilenet_v3_large_320_fpn(weights_backbone=None, min_size=64)
    in_features = model.roi_heads.box_predictor.cls_score.in_features
    model.roi_heads.box_predictor = library.FastRCNNPredictor(in_features, 3)
    target = {"boxes": torch.tensor([[5., 5, 40, 50]]), "labels": torch.tensor([2])}
    losses = model([torch.rand(3, 64, 64)] * 2, [target] * 2)
    sum(losses.values()).backward()
    assert model.roi_heads.box_predictor.cls_score.weight.grad.shape == (3, 1024)
    with pytest.raises(ValueError, match="label 0 is 3; classes are 1 … 2"):
        model([torch.rand(3, 64, 64)], [{**target, "labels": torch.tensor([3])}])


def test_parts_of_torchvision_in_our_detector():
    "Their anchor generator, RPN head, RoI pooling, box head and predictor, all of them and mixed with ours."
    ours, theirs = composed()
    for k in range(len(THEIRS) - 1):
        parts = [THEIRS[i] if i >= k else OURS[i] for i in range(4)] + [FasterRCNN]
        mixed = assemble(parts, copy.deepcopy(ours.backbone), rpn_head=rpn.RPNHead(256, 9) if k == 0 else RPNHead(256, 9))
        assert isinstance(mixed.rpn.anchor_generator, parts[0])
        compare_detections(alike((mixed, theirs)))
    compare_training(alike((mixed, theirs)))
    ours.rpn.anchor_generator = anchor_utils.AnchorGenerator(((16, 32, 64),), ((0.5, 1.0, 2.0),))      # afterwards
    compare_detections(alike((ours, theirs)))


def test_an_anchor_generator_of_ones_own():
    class Shifted(anchor_utils.AnchorGenerator):
        def forward(self, images, feature_maps):
            return [a + 8 for a in super().forward(images, feature_maps)]
    pair = [assemble(parts, resnet_c4_backbone("resnet18"), rpn_anchor_generator=Shifted(((16, 32, 64),), ((0.5, 1, 2),)))
            for parts in (OURS, THEIRS)]
    compare_training(alike(pair))
    compare_detections(pair)


def test_image_lists_of_either_library():
    tensors, sizes = torch.rand(2, 3, 64, 96, dtype=torch.float64), [(64, 90), (50, 96)]
    ours, theirs = alike(composed())
    results = []
    for kind in (ImageList, image_list.ImageList):
        images = kind(tensors, sizes).to("cpu")
        for model in (ours.eval(), theirs.eval()):
            with torch.no_grad():
                features = {"0": model.backbone(images.tensors)}
                proposals, _ = model.rpn(images, features)
                results.append(model.roi_heads(features, proposals, images.image_sizes)[0])
    for other in results[1:]:
        assert_close(other, results[0], rtol=0, atol=1e-7)


def test_inference_mode_before_training():
    "Anchors that were made in inference mode serve training too."
    (ours, _), (images, targets) = alike(tiny()), batch()
    with torch.inference_mode():
        ours.eval()(images)
    sum(ours.train()(images, targets).values()).backward()


def test_autocast_on_the_cpu_stays_near_float32():
    (ours, _), (images, targets) = alike(composed(), torch.float32), batch(torch.float32)
    results = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(ours(images, targets))
    for name, value in results[1].items():
        assert value.dtype == torch.float32
        assert_close(value, results[0][name], rtol=0.1, atol=0.02)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_detector_on_a_gpu_equals_that_on_the_cpu():
    (ours, _), (images, targets) = alike(composed()), batch()
    with torch.no_grad():
        expected = ours.eval()(images)
        found = ours.cuda()([x.cuda() for x in images])
    for mine, other in zip(found, expected):
        assert_close(mine["boxes"].cpu(), other["boxes"], rtol=0, atol=1e-6)
    sum(ours.train()([x.cuda() for x in images], [{k: v.cuda() for k, v in t.items()} for t in targets]).values()).backward()
    with pytest.raises(ValueError, match="target 0: boxes are on cpu, the images on cuda"):
        ours([x.cuda() for x in images], targets)
