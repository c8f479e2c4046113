"Reports end to end: a tiny run, the same numbers twice, and every kind of bad input stopped by one sentence."
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import papermill
import pytest
import yaml

from frcnn_nbdev import shell
from frcnn_nbdev.phantom import write_phantom

ROOT = Path(__file__).resolve().parents[1]
TINY = dict(phantom_train=24, epochs=2, image_size=96, batch_size=4, rois=16, validate_every=1)
RUN_FILES = ["environment.json", "history.csv", "metrics.json", "model.json", "model.safetensors", "params.yaml", "predictions.csv",
             "report.html", "report.ipynb", "times.json", "truth.csv"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def tiny(tiny_run) -> Path:
    return tiny_run


def test_a_run_folder_is_complete(tiny):
    assert sorted(p.name for p in tiny.iterdir() if p.is_file()) == RUN_FILES
    assert list((tiny / "figures").glob("*.png"))
    metrics = json.loads((tiny / "metrics.json").read_text())
    assert {"AP", "AP50", "AP75", "accuracy", "mean_iou", "images"} <= set(metrics["test"])
    assert set(metrics) == {"test", "val", "baseline", "analysis"} and metrics["test"]["images"] == 6
    header = (tiny / "predictions.csv").read_text().splitlines()[0]
    assert header == "name,x1,x2,y1,y2,classname,score"
    page = (tiny / "report.html").read_text()
    assert "<img" in page and "https://cdn" not in page and "src=\"http" not in page
    assert "/s]" not in page and "Warning" not in page, "a progress bar or a warning is on the page"
    assert '<nav class="contents"' in page and page.count("<img") == page.count("alt=\"") and 'alt=""' not in page
    order = [page.index(words) for words in ("<h1", "Detections count from a score", "Headline numbers of 6 images", '<nav class="contents"', ">Parameters<", '<details class="code">')]
    assert order == sorted(order) and page.count('<details class="code">') == 1
    assert json.loads((tiny / "environment.json").read_text()).keys() >= {"report", "commit", "packages", "data"}


def test_params_yaml_runs_as_is_and_gives_the_same_metrics(tiny, folder):
    again = shell.run_report("train", yaml.safe_load((tiny / "params.yaml").read_text()), folder / "again", progress=False)
    assert (again / "metrics.json").read_bytes() == (tiny / "metrics.json").read_bytes()


def test_one_class_is_not_called_accurate(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["name,x1,x2,y1,y2,classname"]
    (tmp_path / "data").mkdir()
    for number in range(20):
        image = rng.integers(0, 60, (64, 64), dtype=np.uint8)
        x, y = rng.integers(2, 40, 2)
        image[y:y + 20, x:x + 20] = 220
        cv2.imwrite(str(tmp_path / "data" / f"{number}.png"), image)
        rows.append(f"{number}.png,{x},{x + 20},{y},{y + 20},square")
    (tmp_path / "data" / "boxes.csv").write_text("\n".join(rows))
    run = shell.run_report("train", dict(TINY, epochs=1, image_size=64, data=str(tmp_path / "data")), tmp_path / "run", progress=False)
    page = (run / "report.html").read_text()
    assert "accuracy" not in page.split("The code of this report")[0].lower().replace("val_accuracy", "") and ">located<" in page
    assert ">false detections<" in page and not (run / "figures" / "confusion.png").exists()
    assert "drawn by this tool with the seed 0, image by image" in page and "since no exam is known" in page
    assert json.loads((run / "metrics.json").read_text())["test"].keys() >= {"accuracy", "located"}


def test_plain_papermill(folder):
    out = folder / "plain"
    params = dict(TINY, epochs=1, out=str(out))
    papermill.execute_notebook(str(ROOT / "reports" / "train.ipynb"), str(folder / "plain.ipynb"), parameters=params,
                               progress_bar=False)
    assert (out / "metrics.json").exists() and (out / "model.safetensors").exists()


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    "Run the command in an empty folder; gives its exit code and the last line of its errors."
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            shell.frcnn_report(list(words))
        return stopped.value.code, capfd.readouterr().err.strip().splitlines()[-1]
    return run


@pytest.mark.parametrize("words, sentence", [
    (["trian"], "there is no report 'trian'"),
    (["train", "-p", "epoch", "3"], "no parameter 'epoch': did you mean 'epochs'?"),
    (["train", "-p", "epochs", "many"], "parameter 'epochs' is 'many' but must be of type int"),
    (["train", "-p", "epochs", "1.5"], "parameter 'epochs' is '1.5' but must be of type int"),
    (["train", "-p", "baseline", "perhaps"], "parameter 'baseline' is 'perhaps' but must be of type bool"),
    (["train", "-p", "epochs", "0"], "parameter 'epochs' is 0: give 1 or more"),
    (["train", "-p", "resize", "longst"], "the resize 'longst' is unknown, did you mean 'longest'?"),
    (["train", "-p", "lr", "nan"], "parameter 'lr' is nan"),
    (["evaluate", "-p", "split", "tset"], "the split 'tset' is unknown, did you mean 'test'?"),
    (["train", "-f", "missing.yaml"], "missing.yaml cannot be read (No such file or directory)"),
    (["train", "no/such/folder"], "no/such/folder"),
    (["train", "-p", "backbone", "resnet19", "-p", "phantom_train", "8"], "the backbone 'resnet19' is unknown"),
    (["train", "-p", "backbone", "squeezenet1_0", "-p", "weights", "none.safetensors", "-p", "phantom_train", "8"],
     "weights file none.safetensors does not exist"),
])
def test_bad_parameters(words, sentence, tmp_path, refused):
    code, last = refused(*words, "--name", str(tmp_path / "run"))
    assert code == 1 and last.startswith("frcnn_report:") and sentence in last
    assert not (tmp_path / "run").exists()


def tiny_like(folder: Path) -> Path:
    "The least that a comparison takes for a finished run."
    run = folder / "run"
    run.mkdir()
    for name, text in (("metrics.json", "{}"), ("params.yaml", "lr: 1"), ("environment.json", '{"data": {"classes": ["a"]}}'),
                       ("truth.csv", "name,x1,x2,y1,y2,classname\na.png,1,9,1,9,a\n"),
                       ("predictions.csv", "name,x1,x2,y1,y2,classname,score\na.png,1,9,1,9,a,0.5\n")):
        (run / name).write_text(text)
    return run


def test_mistyped_options_are_refused(refused):
    code, last = refused("train", "--nam", "run")
    assert code == 2 and "unrecognized arguments: --nam run" in last


def test_a_report_that_failed_early_gives_its_name_back(tmp_path):
    with pytest.raises(shell.ReportError, match=r"there is one run, .*: name at least two to compare\. What there is of the run is in"):
        shell.run_report("compare", {"runs": str(tiny_like(tmp_path))}, tmp_path / "one", progress=False)
    assert shell.failed_early(shell.unfinished(tmp_path / "one"))
    assert shell.free_folder(tmp_path / "one", {"runs": "others"}) == tmp_path / "one"
    (shell.unfinished(tmp_path / "one") / "model.safetensors").write_bytes(b"hours of work")
    assert shell.free_folder(tmp_path / "one", {"runs": "others"}) == tmp_path / "one-2"


def test_reports_and_their_parameters_are_listed(capsys):
    shell.frcnn_report(["--list"])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == shell.report_names() and all(line.endswith(".") for line in listed)
    for words in (["--help", "train"], ["train", "--help"], ["train", "--parameters"]):
        shell.frcnn_report(words)
        said = capsys.readouterr().out
        assert re.search(r"^  lr +float +0.0015 +highest learning rate$", said, re.M) and "  out " not in said
    shell.frcnn_report(["--help"])
    assert "frcnn_report sweep" in capsys.readouterr().out


def test_the_shell_answers_without_the_heavy_libraries(tmp_path):
    code = ("import sys; from frcnn_nbdev.shell import frcnn_report, shell_parameters, report_parser\n"
            "frcnn_report(['--list']); frcnn_report(['--help']); frcnn_report(['--help', 'train'])\n"
            "shell_parameters(report_parser().parse_args(['evaluate', '-p', 'split', 'test', '-p', 'resamples', '9']))\n"
            "print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert loaded[0] == "loaded:" and {"frcnn_nbdev", "argparse", "yaml"} <= set(loaded)
    heavy = {"torch", "torchvision", "accelerate", "sklearn", "skimage", "scipy", "matplotlib", "cv2", "numpy", "pandas",
             "papermill", "nbconvert", "nbformat", "IPython"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize("module", ["shell", "reports"])
def test_the_module_is_a_command(module, tmp_path):
    done = subprocess.run([sys.executable, "-m", f"frcnn_nbdev.{module}", "train", "-p", "epoch", "3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "has no parameter 'epoch': did you mean 'epochs'?" in done.stderr


def test_the_shell_says_where_it_is_and_opens_the_page(tmp_path, monkeypatch, capfd):
    opened = []
    monkeypatch.setattr(shell.webbrowser, "open", opened.append)
    monkeypatch.chdir(tmp_path)
    shell.frcnn_report(["dataset", "-p", "phantom_train", "8", "-p", "thumbnails", "1", "-p", "image_size", "64", "--name", "small", "--open"])
    said = capfd.readouterr()
    assert "frcnn_report: cell 3 of " in said.err and ": Images and objects" in said.err
    assert opened == [(tmp_path / "runs" / "small" / "report.html").as_uri()]


def test_the_installed_command(tmp_path):
    command = [Path(sys.executable).parent / "frcnn_report", "train", "-p", "epoch", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("frcnn_report: the report 'train' has no parameter 'epoch'")
    assert not list(tmp_path.iterdir())


def test_losses_that_explode_name_step_and_files(tmp_path, refused):
    params = [word for name, value in dict(TINY, lr=1e30, phantom_train=8).items() for word in ("-p", name, str(value))]
    code, last = refused("train", *params, "--name", str(tmp_path / "run"))
    assert code == 1 and "step" in last and "on the images" in last and ".png" in last
    assert not (tmp_path / "run").exists() and (tmp_path / "run.unfinished" / "report.ipynb").exists()
    assert not (tmp_path / "run.unfinished" / "metrics.json").exists()


def test_parameters_from_yaml_are_checked(tmp_path):
    (tmp_path / "p.yaml").write_text("lr: 1e-3\nbaseline: 'no'\n")      # both are texts in YAML 1.1
    args = type("Args", (), dict(report="train", file=str(tmp_path / "p.yaml"), data=None, pairs=[["epochs", "3"]]))
    assert shell.shell_parameters(args) == {"lr": 1e-3, "baseline": False, "epochs": 3}
    with pytest.raises(ValueError, match="'epochs' is True"):
        shell.check_parameters("train", {"epochs": True})


def broken(kind: str, folder: Path) -> str:
    "Damage one file of a labelled folder; returns what the error must name."
    image = sorted(folder.glob("AC/train/image/*.png"))[0]
    label = folder / "AC" / "train" / "label" / image.name
    if kind == "zero bytes":
        image.write_bytes(b"")
    elif kind == "no image":
        image.write_text("not a picture")
    elif kind == "no paint":
        cv2.imwrite(str(label), cv2.imread(str(image)))
    elif kind == "other size":
        cv2.imwrite(str(label), cv2.imread(str(label))[:-7])
    return image.name


@pytest.mark.parametrize("kind", ["zero bytes", "no image", "no paint", "other size"])
def test_bad_files_stop_the_report_before_training(kind, tmp_path, refused):
    write_phantom(tmp_path / "data", images=(8, 4, 4), seed=1, progress=False)
    name = broken(kind, tmp_path / "data")
    code, last = refused("train", str(tmp_path / "data"), "--name", str(tmp_path / "run"))
    assert code == 1 and name in last and last.startswith("frcnn_report:")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("row, sentence", [
    ("{},5,9999,5,60,AC", "outside"), ("{},5,x,5,60,AC", "row"), ("gone.png,5,50,5,60,AC", "gone.png"),
])
def test_bad_boxes_stop_the_report(row, sentence, tmp_path, refused):
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    rows = ["name,x1,x2,y1,y2,classname"]
    for i in range(12):
        cv2.imwrite(str(tmp_path / "data" / f"{i}.png"), rng.integers(0, 255, (90, 120), dtype=np.uint8))
        rows.append(f"{i}.png,5,50,5,60,AC")
    rows[3] = row.format("2.png")
    (tmp_path / "data" / "boxes.csv").write_text("\n".join(rows))
    code, last = refused("train", str(tmp_path / "data"), "--name", str(tmp_path / "run"))
    assert code == 1 and sentence in last
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_never_overwritten(tiny):
    with pytest.raises(ValueError, match="exists already"):
        shell.run_report("train", TINY, tiny)


LONG = dict(phantom_train=24, epochs=30, image_size=96, batch_size=4, rois=16, validate_every=10, checkpoint_seconds=0.2)


def interrupted(command: list, folder: Path, signal_number: int) -> str:
    "Start the command, send it a signal after its first checkpoint; what it said."
    def written():
        return {(path.name, path.stat().st_mtime_ns) for path in folder.glob("runs/train.unfinished/checkpoints/model/step-*.safetensors")}
    before = written()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for _ in range(1200):
        if written() - before:
            break
        assert process.poll() is None, process.stdout.read()[-2000:]
        time.sleep(0.1)
    process.send_signal(signal_number)
    return process.communicate()[0]


@pytest.mark.slow
def test_the_same_command_goes_on_after_kill_9_and_ctrl_c(tmp_path):
    words = [word for name, value in LONG.items() for word in ("-p", name, str(value))]
    command = [str(Path(sys.executable).parent / "frcnn_report"), "train", *words]
    whole = shell.run_report("train", LONG, tmp_path / "whole", progress=False)
    interrupted(command, tmp_path, signal.SIGKILL)
    said = interrupted(command, tmp_path, signal.SIGINT)
    assert "going on with runs/train.unfinished" in said and "the same command goes on with it" in said
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "going on with runs/train.unfinished" in done.stdout, done.stderr[-2000:]
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["data", "train"]
    assert sorted(p.name for p in (tmp_path / "runs" / "train").iterdir() if p.is_file()) == RUN_FILES
    for name in ("metrics.json", "predictions.csv", "model.safetensors"):
        assert (tmp_path / "runs" / "train" / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_processes_of_torchrun_and_of_the_report_give_the_same(tmp_path):
    params = dict(TINY, epochs=1)
    words = [word for name, value in params.items() for word in ("-p", name, str(value))]
    subprocess.run([Path(sys.executable).parent / "torchrun", "--nproc_per_node", "2", "-m", "frcnn_nbdev.shell", "train", *words,
                    "--name", "shell"], cwd=tmp_path, check=True, capture_output=True)
    own = shell.run_report("train", dict(params, processes=2), tmp_path / "own", progress=False)
    assert yaml.safe_load((tmp_path / "runs" / "shell" / "params.yaml").read_text())["processes"] == 2
    assert (tmp_path / "runs" / "shell" / "metrics.json").read_bytes() == (own / "metrics.json").read_bytes()


def test_other_parameters_do_not_go_on_in_a_named_folder(tmp_path):
    work = shell.unfinished(tmp_path / "run")
    (work / "checkpoints").mkdir(parents=True)
    (work / "params.yaml").write_text(yaml.safe_dump(shell.all_parameters("train", {"epochs": 3})))
    with pytest.raises(ValueError, match="with epochs 3 and not 4; with the same parameters it goes on"):
        shell.run_report("train", {"epochs": 4}, tmp_path / "run", progress=False)
    assert (work / "checkpoints").exists()


def test_wheel_imports_without_the_repository(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "runs", "build", "*.egg-info"))
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source],
                   check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")      # an environment made by uv has no pip
    code = ("import sys; sys.path.insert(0, 'site'); import frcnn_nbdev, pathlib, pkgutil, importlib\n"
            "names = [m.name for m in pkgutil.iter_modules(frcnn_nbdev.__path__) if not m.name.startswith('_')]\n"
            "[importlib.import_module('frcnn_nbdev.' + n) for n in names if n != 'report_notebooks']\n"
            "from frcnn_nbdev.shell import report_names\n"
            "print(pathlib.Path(frcnn_nbdev.__file__).parents[1].name, len(names), report_names())")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("site ") and "'train'" in done.stdout
