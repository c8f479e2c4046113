"A detector as one file: exported with one image, it finds in other images what the model finds, whatever their number."
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from frcnn_nbdev.anchors import anchors_from_sizes
from frcnn_nbdev.faster_rcnn import compact_faster_rcnn, fasterrcnn_mobilenet_v3_large_320_fpn

pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx onnxscript onnxruntime")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install onnx onnxscript onnxruntime")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime")

SHAPES = {"compact": [(3, 96, 128)], "mobilenet": [(3, 90, 130)], "two images": [(3, 96, 128), (3, 80, 64)]}


def images(shapes, seed):
    "Noise, brighter from seed to seed, on the right half of the image more than on the left."
    generator = torch.Generator().manual_seed(seed)
    result = [torch.rand(shape, generator=generator) * (0.2 + 0.2 * seed) for shape in shapes]
    for image in result:
        image[:, :, :image.shape[2] // 2] *= 0.3
    return result


def detector(name):
    "A detector of random weights that are large enough for it to be sure of some objects."
    torch.manual_seed(0)
    if name == "mobilenet":      # its resizing is exported too
        model = fasterrcnn_mobilenet_v3_large_320_fpn(weights_backbone=None, num_classes=4, min_size=96, max_size=160,
                                                      rpn_score_thresh=0.6, box_score_thresh=0.3)
    else:
        model = compact_faster_rcnn("small", 4, anchors_from_sizes([[20, 20], [40, 30], [30, 50]]), proposals=60,
                                    rpn_score_thresh=0.6, box_score_thresh=0.3)
    for key, value in model.named_parameters():
        if value.ndim > 1 and ("cls" in key or "bbox" in key):
            nn.init.normal_(value, std=0.4 if "cls_logits" in key else 0.2 if "cls" in key else 0.005)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.eps = 1.0, 0.1      # one pass sets the statistics; small ones do not magnify rounding
    batch, _ = model.transform([image for seed in range(3) for image in images(SHAPES[name], seed)])
    maps = model.backbone.train()(batch.tensors)
    if name == "mobilenet":      # nothing normalises the pyramid: bring its maps to the size of ones
        with torch.no_grad():
            for block, x in zip(model.backbone.fpn.layer_blocks, maps.values()):
                block[0].weight /= x.std()
    return model.eval()


def assert_same_detections(model, exported, shapes):
    "On three contents; the numbers of proposals and detections must differ, or the test would say little."
    counts = []
    for seed in range(3):
        other = images(shapes, seed)
        with torch.no_grad():
            expected = [found[k] for found in model(other) for k in ("boxes", "labels", "scores")]
        found = exported(other)
        assert [tuple(f.shape) for f in found] == [tuple(e.shape) for e in expected]
        for mine, model_output in zip(found, expected):
            assert_close(torch.as_tensor(mine), model_output, rtol=0, atol=1e-3)
        counts.append(tuple(len(e) for e in expected[::3]))
    assert len(set(counts)) == 3 and min(map(max, counts)) > 0, counts


def runtime(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda images: session.run(None, {name: image.numpy() for name, image in zip(names, images)})


@pytest.mark.parametrize("name", ["compact", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mobilenet", "two images"))])
def test_onnx(name, tmp_path):
    "`torch.export` makes the program, `torch.onnx` a file of it; both find the same."
    model, example = detector(name), images(SHAPES[name], seed=1)
    program = torch.export.export(model, (example,), strict=False)
    names = [f"{k}_{i}" for i in range(len(example)) for k in ("boxes", "labels", "scores")]
    torch.onnx.export(program, (), tmp_path / "model.onnx", dynamo=True, output_names=names, verbose=False)
    assert_same_detections(model, runtime(tmp_path / "model.onnx"), SHAPES[name])

    def run(images):
        with torch.no_grad():
            return [d[k] for d in program.module()(images) for k in ("boxes", "labels", "scores")]
    assert_same_detections(model, run, SHAPES[name])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.filterwarnings("ignore")      # that this exporter is the old one, and of every number it freezes
def test_onnx_by_tracing(name, tmp_path):
    model, example = detector(name), images(SHAPES[name], seed=1)
    torch.onnx.export(model, (example,), tmp_path / "model.onnx", dynamo=False, opset_version=18)
    assert_same_detections(model, runtime(tmp_path / "model.onnx"), SHAPES[name])


@pytest.mark.filterwarnings("ignore")
def test_nothing_found(tmp_path):
    "No detection, while the traced image had some: empty tensors, and no error of the runtime."
    model, (example,) = detector("mobilenet"), images(SHAPES["mobilenet"], seed=1)
    contents = [factor * example for factor in (0, 1, 3)]
    with torch.no_grad():
        best = [model([x])[0]["scores"].max().item() for x in contents]
    poor, rich = contents[best.index(min(best))], contents[best.index(max(best))]
    model.roi_heads.score_thresh = (min(best) + max(best)) / 2
    torch.onnx.export(model, ([rich],), tmp_path / "model.onnx", dynamo=False, opset_version=18)
    run = runtime(tmp_path / "model.onnx")
    assert len(run([rich])[0]) > 0
    assert [x.shape for x in run([poor])] == [(0, 4), (0,), (0,)]
