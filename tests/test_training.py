"Training that survives: kill -9 at random moments, damaged and foreign checkpoints, a full disk, two processes for one."
import errno
import json
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from frcnn_nbdev import training
from frcnn_nbdev.anchors import anchors_from_sizes
from frcnn_nbdev.batches import BoxesDataset, collate, make_loader, train_transforms
from frcnn_nbdev.checkpoints import PLAIN, Checkpoints, read_checkpoint
from frcnn_nbdev.data import load_boxes
from frcnn_nbdev.faster_rcnn import compact_faster_rcnn
from frcnn_nbdev.phantom import write_phantom
from frcnn_nbdev.training import LOSSES, fit

# The tests in processes that are killed, or are several, run scripts that begin so.
SETUP = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import cv2
    import torch
    torch.set_num_threads(1)
    cv2.setNumThreads(1)      # the scripts fork, and a lock of cv2's pool may be held just then
    from frcnn_nbdev.batches import make_loader
    from frcnn_nbdev.training import fit
    from test_training import data, detector, in_double
"""


def detector():
    torch.manual_seed(0)
    return compact_faster_rcnn("small", 5, anchors_from_sizes([(12, 20), (16, 30), (10, 7)]), rois_per_image=8)


def data(folder):
    "Training images, with transforms, and validation images."
    found = load_boxes(folder)
    return (BoxesDataset(found, "train", image_size=64, transforms=train_transforms()).preload(),
            BoxesDataset(found, "val", image_size=64).preload())


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "phantom"
    write_phantom(folder, images=(10, 4, 4), seed=0, progress=False)
    return folder


def in_double(batch):
    "A batch in float64, for comparisons of sums in another order: in float32 a rounding may decide which proposal survives."
    pictures, targets = collate(batch)
    return [p.double() for p in pictures], [t | {"boxes": t["boxes"].double()} for t in targets]


def train(phantom, model=None, batch_size=4, double=False, **changes):
    "A short training; the model, and what `fit` says."
    images, val = data(phantom)
    model = detector() if model is None else model
    loaders = make_loader(images, batch_size, shuffle=True, seed=0), make_loader(val, 2)
    if double:
        for loader in loaders:
            loader.collate_fn = in_double
    settings = dict(epochs=3, lr=1e-3, ema_decay=0.8, validate_every=2, progress=False)
    return model, fit(model.double() if double else model, *loaders, **settings | changes)


def assert_same(one, other):
    pd.testing.assert_frame_equal(one[1].history, other[1].history, check_exact=True)
    assert all(torch.equal(value, other[0].state_dict()[name]) for name, value in one[0].state_dict().items())


class PowerCut(Exception):
    pass


def cut(monkeypatch, phantom, at_step, **changes):
    "A training that ends in the middle of a step, with a checkpoint after every one before it."
    original, done = training.train_step, []

    def step(*args, **options):
        if len(done) + 1 == at_step:
            raise PowerCut
        done.append(1)
        return original(*args, **options)
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(training, "train_step", step)
        train(phantom, checkpoint_seconds=0, **changes)


@pytest.fixture(scope="module")
def whole(phantom):
    return train(phantom)


KILLER = SETUP + """
    import os, random, signal, sys, time
    from pathlib import Path

    phantom, folder = sys.argv[1:]
    images, val = data(phantom)

    def run(name):
        "A training in a process of its own; gives its id."
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                done = fit(detector(), make_loader(images, 2, shuffle=True, seed=0), make_loader(val, 2), epochs=4, ema_decay=0.8,
                           validate_every=2, checkpoint=f"{folder}/{name}.safetensors", checkpoints=f"{folder}/{name}",
                           checkpoint_seconds=0, progress=False)
                done.history.to_csv(f"{folder}/{name}.csv", index=False)
                code = 0
            finally:
                os._exit(code)
        return pid

    def newest():
        "Step of the newest checkpoint of the training that gets killed."
        return max((int(path.stem[5:]) for path in Path(folder, "killed").glob("step-*.safetensors")), default=0)

    begin = time.perf_counter()
    assert os.waitpid(run("whole"), 0)[1] == 0
    step_seconds = (time.perf_counter() - begin) / 20
    random.seed(int(time.time()))
    killed = []
    for attempt in range(4):
        goal, pid, ended = newest() + random.randint(1, 4), run("killed"), 0
        if attempt < 3:      # after a few steps of this process, anywhere within a step or a checkpoint
            while newest() < goal and not ended:
                time.sleep(0.001)
                ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                time.sleep(random.uniform(0, 1) * step_seconds)
                os.kill(pid, signal.SIGKILL)
        if not ended:
            status = os.waitpid(pid, 0)[1]
        if status == 0:
            break
        assert os.WIFSIGNALED(status), status
        killed.append(newest())
    found = sorted(path.name for path in Path(folder, "killed").iterdir())
    print(f"killed after the steps {killed} of 20; {found}")
    assert len(killed) >= 2 and not [name for name in found if not name.startswith("step-")]
"""


def run_script(script, *args):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_kill_9_at_random_moments_changes_no_bit(phantom, tmp_path):
    print(run_script(KILLER, phantom, tmp_path))
    for name in ("{}.csv", "{}.safetensors"):
        assert (tmp_path / name.format("killed")).read_bytes() == (tmp_path / name.format("whole")).read_bytes(), name


@pytest.mark.parametrize("at_step", [2, 4, 5, 9])      # 3 steps an epoch: within one, after its last step, in the last epoch
def test_interrupted_training_ends_with_the_same_bits(at_step, phantom, whole, tmp_path, monkeypatch):
    cut(monkeypatch, phantom, at_step, checkpoints=tmp_path)
    resumed = train(phantom, checkpoints=tmp_path)
    assert resumed[1].resumed == at_step - 1
    assert_same(resumed, whole)


@pytest.mark.parametrize("changes", [dict(accumulate=2), dict(image_seeds=True), dict(ema_decay=None, schedule="step"),
                                     dict(patience=1, validate_every=1)], ids=str)
def test_options_survive_an_interruption(changes, phantom, tmp_path, monkeypatch):
    cut(monkeypatch, phantom, 3, checkpoints=tmp_path, **changes)
    assert_same(train(phantom, checkpoints=tmp_path, **changes), train(phantom, **changes))


def test_batches_by_aspect_survive_an_interruption(phantom, tmp_path, monkeypatch):
    images, val = data(phantom)
    images.resize = "longest"
    def go(**changes):
        model = detector()
        loader = make_loader(images, 3, shuffle=True, seed=0, by_aspect=True)
        return model, fit(model, loader, make_loader(val, 2), epochs=2, progress=False, **changes)
    monkeypatch.setitem(globals(), "train", lambda phantom, **changes: go(**changes))
    cut(monkeypatch, phantom, 6, checkpoints=tmp_path)
    assert_same(go(checkpoints=tmp_path), go())


@pytest.mark.parametrize("at_step", [4, 6])      # within an epoch of three batches, 3, 3 and 4 images, and at its last one
def test_a_joined_last_batch_survives_an_interruption(at_step, phantom, tmp_path, monkeypatch):
    images, val = data(phantom)
    def go(**changes):
        model = detector()
        loader = make_loader(images, 3, shuffle=True, seed=0, join_last=True)
        return model, fit(model, loader, make_loader(val, 2), epochs=3, progress=False, **changes)
    monkeypatch.setitem(globals(), "train", lambda phantom, **changes: go(**changes))
    cut(monkeypatch, phantom, at_step, checkpoints=tmp_path)
    whole = go()
    assert whole[1].steps == 9
    assert_same(go(checkpoints=tmp_path), whole)


def test_the_learning_rate_is_blamed_only_for_weights_that_are_no_numbers(phantom):
    images, val = (BoxesDataset(one.data, one.split, image_size=16) for one in data(phantom))
    for model, blamed in ((detector(), False), (detector(), True)):
        if blamed:
            torch.nn.init.constant_(model.rpn.head.bbox_pred.weight, float("nan"))
        with pytest.raises(ValueError, match="step 1 on the images") as stopped:
            fit(model, make_loader(images, 2 if blamed else 1), make_loader(val, 2), epochs=1, progress=False)
        assert ("lower the learning rate" in str(stopped.value)) == blamed


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(phantom, whole, tmp_path, monkeypatch):
    cut(monkeypatch, phantom, 6, checkpoints=tmp_path)
    newest = Checkpoints(tmp_path, {}).files()[-1]
    content = bytearray(newest.read_bytes())
    content[-100] ^= 4
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged: its content is not what was written; going on from step-000000004"):
        resumed = train(phantom, checkpoints=tmp_path)
    assert_same(resumed, whole)


def test_a_foreign_checkpoint_is_refused(phantom, tmp_path, monkeypatch):
    cut(monkeypatch, phantom, 3, checkpoints=tmp_path)
    for changes, sentence in [(dict(lr=2e-3), "lr is 0.001 there and 0.002 here"), (dict(batch_size=2), "batches is 3 there and 5 here"),
                              (dict(identity={"data": "abc"}), "data is None there and 'abc' here")]:
        with pytest.raises(ValueError, match=f"belongs to another training: {sentence}"):
            train(phantom, checkpoints=tmp_path, **changes)
    other = detector()
    nn.init.zeros_(other.roi_heads.box_predictor.cls_score.weight)
    with pytest.raises(ValueError, match="starting weights is"):
        train(phantom, model=other, checkpoints=tmp_path)
    assert train(phantom, checkpoints=tmp_path, lr=2e-3, epochs=1, resume=False)[1].resumed == 0


def test_a_full_disk_costs_no_good_checkpoint(phantom, whole, tmp_path, monkeypatch):
    from frcnn_nbdev import checkpoints
    original, calls = checkpoints.os.fsync, []

    def full(descriptor):
        calls.append(1)
        if 5 <= len(calls) <= 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor)
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="No space left on device; the training goes on, the last good one"):
        patch.setattr(checkpoints.os, "fsync", full)
        assert_same(train(phantom, checkpoints=tmp_path, checkpoint_seconds=0), whole)
    assert not list(tmp_path.glob("*.partial"))
    # Full from some moment on, then the power goes: the last good one is gone on from.
    monkeypatch.undo()
    for path in tmp_path.iterdir():
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with monkeypatch.context() as patch:
            left = [2 * 3]      # a file and its folder, three times
            def then_full(descriptor):
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return original(descriptor)
            patch.setattr(checkpoints.os, "fsync", then_full)
            cut(monkeypatch, phantom, 7, checkpoints=tmp_path)
    resumed = train(phantom, checkpoints=tmp_path)
    assert resumed[1].resumed == 3
    assert_same(resumed, whole)


def test_weights_that_cannot_be_written_are_written_at_the_end(phantom, tmp_path, monkeypatch):
    original, calls = training.write_bytes, []

    def full_once(path, content):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, content)
    monkeypatch.setattr(training, "write_bytes", full_once)
    with pytest.warns(UserWarning, match="the weights of epoch 2 could not be written"):
        model, _ = train(phantom, checkpoint=tmp_path / "best.safetensors")
    kept = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_holds_no_code_and_says_how_much_time_was_used(phantom, tmp_path, monkeypatch):
    begin = time.perf_counter()
    cut(monkeypatch, phantom, 4, checkpoints=tmp_path, max_minutes=30.0)
    passed = time.perf_counter() - begin
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}
    tensors, facts = read_checkpoint(Checkpoints(tmp_path, {}).files()[-1])
    assert {name.split("/")[0] for name in tensors} == {"model", "average", "optimizer", "rng", "order", "generator"}
    assert 0 < facts["seconds"] < passed and json.dumps(facts)
    time.sleep(0.3)      # time in which nothing ran does not count
    done = train(phantom, checkpoints=tmp_path, max_minutes=30.0)[1]
    assert done.resumed == 3 and done.seconds > facts["seconds"]


def test_time_used_before_the_interruption_counts(phantom):
    state = training.State(detector(), None, None, None, None, training.Progress(10, max_minutes=1))
    facts = {name: getattr(state, name) for name in PLAIN} | {"finished": True, "step": 2, "reserve": 0.0, "seconds": 60.0}
    training.restore_state(state, {}, facts)
    assert state.done.share() >= 1


def test_checkpoints_take_at_most_a_fiftieth_of_the_time():
    store = Checkpoints("unused", {}, seconds=1.0, cost=0.4)
    store.written = time.perf_counter() - 15
    assert not store.due()      # 50 · 0.4 s = 20 s
    store.written = time.perf_counter() - 21
    assert store.due()


TWO = SETUP + """
    import sys
    from functools import partial
    import pandas as pd
    from accelerate import PartialState
    from frcnn_nbdev.distributed import launch

    phantom, folder = sys.argv[1:]
    images, val = data(phantom)

    def go(place, double, **settings):
        loaders = make_loader(images, 3, shuffle=True, seed=0, by_aspect=True), make_loader(val, 3)
        if double:
            for loader in loaders:
                loader.collate_fn = in_double
        model = detector().double() if double else detector()
        counted = lambda detections: {"AP": float(len(detections))}
        done = fit(model, *loaders, image_seeds=True, metrics=counted, progress=False, **settings)
        if PartialState().is_main_process:
            done.history.to_csv(place, index=False)

    runs = {"double": dict(double=True, epochs=2, accumulate=2), "single": dict(double=False, epochs=1, max_steps=1)}
    for name, settings in runs.items():
        launch(partial(go, **settings), f"{folder}/{name}-2.csv", processes=2)
    for name, settings in runs.items():
        go(f"{folder}/{name}-1.csv", **settings)
"""


def test_two_processes_equal_one(phantom, tmp_path):
    run_script(TWO, phantom, tmp_path)
    # In float32 a rounding may have decided which proposal survives; then it is another training, which has begun alike.
    for name, limit in (("double", 1e-9), ("single", 0.05)):
        one, two = (pd.read_csv(tmp_path / f"{name}-{n}.csv") for n in (1, 2))
        assert list(one) == list(two) and len(one) == len(two)
        assert (one - two).abs().max(axis=None) < limit, name
        assert two["val_AP"].dropna().eq(4).all()      # four images, each once


def test_accumulated_batches_equal_one_batch(phantom):
    def without_normalisation():
        torch.manual_seed(0)
        model = compact_faster_rcnn("small", 5, anchors_from_sizes([(12, 20), (16, 30)]), rois_per_image=8, rpn_batch_size_per_image=16)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())
        return model
    settings = dict(image_seeds=True, epochs=1, max_steps=3, schedule="constant", ema_decay=None, double=True)
    whole = train(phantom, without_normalisation(), batch_size=4, **settings)[1].history
    parts = train(phantom, without_normalisation(), batch_size=2, accumulate=2, **settings)[1].history
    names = [f"train_{name}" for name in LOSSES]
    pd.testing.assert_frame_equal(parts[names], whole[names], rtol=1e-9)
    assert whole["step"].iloc[-1] == parts["step"].iloc[-1] == 3


class Point(nn.Module):
    "One weight; every loss is a quarter of it, so that the gradient of their sum is 1."
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))

    def forward(self, images, targets=None):
        if targets is None:
            return [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)} for _ in images]
        return dict.fromkeys(LOSSES, self.weight.sum() / 4)

    def losses_and_detections(self, images, targets, generator=None):
        return self(images, targets), self(images)


def test_ema_has_the_expected_values(phantom, monkeypatch):
    # Plain SGD with rate 0.1 and gradient 1: 1.9, 1.8, 1.7. Average with decay 0.5: 1.9; 1.85; 1.775.
    monkeypatch.setattr(training, "make_optimizer", lambda model, lr, decay: torch.optim.SGD(model.parameters(), lr=lr))
    monkeypatch.setattr(Point, "forward", lambda self, images, targets=None, generator=None, forward=Point.forward:
                        forward(self, images, targets))
    for steps, expected in ((1, 1.9), (2, 1.85), (3, 1.775)):
        model, _ = train(phantom, Point(), lr=0.1, warmup=0.0, schedule="constant", ema_decay=0.5, epochs=1, max_steps=steps)
        torch.testing.assert_close(model.weight.detach(), torch.tensor([expected]))


def test_early_stopping_and_its_counter(phantom):
    values = iter([0.2, 0.5, 0.4, 0.5, 0.9])
    done = train(phantom, epochs=5, validate_every=1, patience=2, metrics=lambda detections: {"AP": next(values)})[1]
    assert (done.best_epoch, len(done.history)) == (2, 4)      # 0.4 and an equal 0.5 are no progress


@pytest.mark.slow
def test_bfloat16_trains_and_goes_on(phantom, tmp_path):
    script = SETUP + """
    import sys
    images, val = data(sys.argv[1])
    def go(**changes):
        model = detector()
        done = fit(model, make_loader(images, 4, shuffle=True, seed=0), make_loader(val, 2), epochs=2, precision="bf16", progress=False, **changes)
        return model, done
    from frcnn_nbdev import training
    original, calls = training.train_step, []
    def step(*args, **options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*args, **options)
    training.train_step = step
    try:
        go(checkpoints=sys.argv[2], checkpoint_seconds=0)
    except KeyboardInterrupt:
        pass
    training.train_step = original
    (one, a), (two, b) = go(checkpoints=sys.argv[2]), go()
    assert a.resumed == 4 and a.history.equals(b.history)
    assert all(torch.equal(v, two.state_dict()[k]) and v.dtype == two.state_dict()[k].dtype for k, v in one.state_dict().items())
    """
    run_script(script, phantom, tmp_path)
