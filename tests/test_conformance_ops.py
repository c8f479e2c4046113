"RoI pooling and NMS against torchvision's: gradients, half precision, and the same on a GPU."
import pytest
import torch
import torchvision
from torch.autograd import gradcheck
from torch.testing import assert_close
from torchvision.ops import MultiScaleRoIAlign as TorchvisionMultiScale

from frcnn_nbdev.iou import box_iou
from frcnn_nbdev.nms import batched_nms, nms
from frcnn_nbdev.roi_align import MultiScaleRoIAlign, roi_align
from frcnn_nbdev.roi_pool import roi_pool

DEVICES = ["cpu", pytest.param("cuda", marks=[
    pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")])]
SIZES = [(64, 48), (50, 60)]


def boxes(n, extent=60, seed=0):
    "Boxes with corners in 0 … 1.5 extent, some tiny."
    generator = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(n, 2, generator=generator) * extent, torch.rand(n, 2, generator=generator) ** 2 * extent / 2
    return torch.cat((corner, corner + side), dim=1).double()


def rois(n):
    "RoIs of two images, among them one beyond the edge and one without area."
    result = torch.cat((torch.arange(n)[:, None] % 2, boxes(n)), dim=1)
    result[0, 1:], result[1, 1:] = torch.tensor([-20., -20, 90, 90]), torch.tensor([7., 7, 7, 7])
    return result


def pyramid(channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {str(i): torch.rand(2, channels, 64 // s, 64 // s, generator=generator).double() for i, s in enumerate((4, 8))}


def layouts(x):
    return [x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)]


# --- gradients

@pytest.mark.parametrize("sampling_ratio", [1, 2, -1])
@pytest.mark.parametrize("aligned", [False, True])
def test_gradcheck_of_roi_align(sampling_ratio, aligned):
    x = torch.rand(2, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for map in layouts(x):
        assert gradcheck(lambda m: roi_align(m, rois(5), (2, 3), 0.1, sampling_ratio, aligned), map.detach().requires_grad_())


def test_gradcheck_of_roi_pool():
    x = torch.randperm(120, generator=torch.Generator().manual_seed(0)).double().view(2, 2, 5, 6)      # no ties
    for map in layouts(x):
        assert gradcheck(lambda m: roi_pool(m, rois(5), (2, 3), 0.1), map.detach().requires_grad_())


def test_gradcheck_over_several_levels():
    pool = MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=16, canonical_level=3)
    regions = [b[:, 1:] for b in (rois(6)[::2], rois(6)[1::2])]
    def pooled(a, b):
        return pool({"0": a, "1": b}, regions, [(64, 64)] * 2)
    maps = [m[:, :1].contiguous().requires_grad_() for m in pyramid().values()]
    assert gradcheck(pooled, maps)
    gradients = torch.autograd.grad(pooled(*maps).sum(), maps)
    assert all(g.abs().sum() > 0 for g in gradients)      # both levels are read


@pytest.mark.parametrize("call", [lambda x, r: roi_align(x, r, 7, 0.25, 2), lambda x, r: roi_pool(x, r, 7, 0.25)], ids=["align", "pool"])
def test_no_roi_still_has_a_gradient(call):
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    out = call(x, torch.zeros(0, 5))
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert x.grad.shape == x.shape and not x.grad.any()


# --- precision and device

@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
                         ids=["float64", "float32", "float16", "bfloat16"])
def test_pooling_in_every_precision(dtype, tolerance, device):
    "Values and gradients stay as near to torchvision's in float64 as the numbers of the maps allow."
    regions = rois(40).to(device)
    for ours, theirs in [(lambda m: roi_align(m, regions, 7, 0.25, 2), lambda m: torchvision.ops.roi_align(m, regions, 7, 0.25, 2)),
                         (lambda m: roi_align(m, regions, 7, 0.25, -1, True), lambda m: torchvision.ops.roi_align(m, regions, 7, 0.25, -1, True)),
                         (lambda m: roi_pool(m, regions, 7, 0.25), lambda m: torchvision.ops.roi_pool(m, regions, 7, 0.25))]:
        exact = pyramid()["0"].to(device).to(dtype)      # rounded once, for both
        mine, other = exact.clone().requires_grad_(), exact.double().requires_grad_()
        pooled, expected = ours(mine), theirs(other)
        assert pooled.dtype == dtype and pooled.device == exact.device
        assert_close(pooled.double(), expected, rtol=tolerance, atol=tolerance)
        for result in (pooled, expected):
            (result * torch.linspace(-1, 1, 7, device=device).to(result.dtype)).sum().backward()
        assert mine.grad.dtype == dtype
        scale = other.grad.abs().max()
        assert (mine.grad.double() - other.grad).abs().max() <= 4 * tolerance * scale


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_levels_in_every_precision(dtype, device):
    maps = {k: v.to(device).to(dtype) for k, v in pyramid().items()}
    regions = [boxes(20, 40, seed=i).to(device) for i in range(2)]
    settings = dict(output_size=3, sampling_ratio=2, canonical_scale=16, canonical_level=3)
    pooled = MultiScaleRoIAlign(["0", "1"], **settings)(maps, [r.to(torch.promote_types(dtype, torch.float32)) for r in regions], SIZES)
    expected = TorchvisionMultiScale(["0", "1"], **settings)({k: v.double() for k, v in maps.items()}, regions, SIZES)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert pooled.dtype == dtype
    assert_close(pooled.double(), expected, rtol=tolerance, atol=tolerance)


def test_strides_of_a_strip():
    "40 rows padded to 64: torchvision guesses the strides from the height, unless a batch came before."
    def maps(height, width, seed):
        g = torch.Generator().manual_seed(seed)
        return {str(k): torch.randn(1, 3, height // s, width // s, generator=g) for k, s in enumerate((4, 8, 16, 32))}
    strip, regions = maps(64, 640, 0), [torch.tensor([[10.0, 5, 300, 38], [100, 2, 130, 30], [0, 0, 640, 40]])]
    names = ["0", "1", "2", "3"]
    theirs = TorchvisionMultiScale(names, 7, 2)
    theirs(maps(320, 640, 1), regions, [(320, 640)])
    for height, width in ((40, 640), (64, 640), (33, 600)):
        assert_close(MultiScaleRoIAlign(names, 7, 2)(strip, regions, [(height, width)]), theirs(strip, regions, [(height, width)]))
    turned = {k: v.mT.contiguous() for k, v in strip.items()}
    swapped = [r[:, [1, 0, 3, 2]] for r in regions]
    assert_close(MultiScaleRoIAlign(names, 7, 2)(turned, swapped, [(640, 40)]).mT, theirs(strip, regions, [(40, 640)]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [0, 1, 300, 5000])
@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.5, 1.0])
def test_nms_is_torchvisions(n, iou_threshold, device):
    "Also with scores that tie, and beyond the size at which our own loop begins."
    candidates = boxes(n, 300).float().to(device)
    for digits in (7, 2):
        scores = torch.rand(n, generator=torch.Generator().manual_seed(1)).round(decimals=digits).to(device)
        expected = torchvision.ops.nms(candidates, scores, iou_threshold)
        found = nms(candidates, scores, iou_threshold)
        if digits == 2 and device != "cpu":      # which of two equal scores comes first is up to the GPU's sorting
            found, expected = scores[found], scores[expected]
        assert torch.equal(found, expected)
        assert torch.equal(nms(candidates, scores, iou_threshold, max_kept=10), nms(candidates, scores, iou_threshold)[:10])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [0, 200, 3000])
def test_batched_nms_is_torchvisions(n, device):
    candidates, groups = boxes(n, 200).float().to(device), (torch.arange(n) % 3).to(device)
    scores = (torch.randperm(n, generator=torch.Generator().manual_seed(1)) / max(n, 1)).to(device)      # no ties
    found = batched_nms(candidates, scores, groups, 0.4)
    assert torch.equal(found, torchvision.ops.batched_nms(candidates, scores, groups, 0.4))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_overlap_of_half_precision_boxes(dtype, device):
    "Areas above 65 504 do not overflow: the half-precision boxes are exact numbers, and so is their IoU."
    half = (boxes(20, 1000) * 2).to(dtype).to(device)
    assert_close(box_iou(half, half).double(), torchvision.ops.box_iou(half.double(), half.double()), rtol=1e-5, atol=1e-6, equal_nan=True)
