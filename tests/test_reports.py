"Reports end to end: a tiny run, the same numbers twice, and every kind of bad input stopped by one sentence."
import io
import json
import os
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
import pandas as pd
import papermill
import pytest
import yaml

from frcnn_nbdev import progress, reports, shell
from frcnn_nbdev.runs import folder as run_folder
from frcnn_nbdev.runs import parameters
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
    again = reports.run_report("train", yaml.safe_load((tiny / "params.yaml").read_text()), folder / "again", progress=False)
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
    run = reports.run_report("train", dict(TINY, epochs=1, image_size=64, data=str(tmp_path / "data")), tmp_path / "run", progress=False)
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


NO_LABELS = "no labels found (looked for"


@pytest.mark.parametrize("words, sentence", [
    (["train", "empty"], NO_LABELS), (["dataset", "empty"], NO_LABELS), (["evaluate", "empty", "-p", "checkpoint", "trained"], NO_LABELS),
    (["train", "two"], "labels of 2 formats are here (coco, yolo)"),
    (["predict", "empty", "-p", "checkpoint", "trained"], "the folder holds no image"),
    (["predict", "gone.png", "-p", "checkpoint", "trained"], "'gone.png' does not exist: give an image, a folder of images or a video"),
    (["evaluate"], "train: there is no such folder; give the folder of a finished training run"),
    (["evaluate", "-p", "checkpoint", "empty"], "empty has no metrics.json: give the folder of a finished training run"),
    (["evaluate", "-p", "checkpoint", "trained"], "'gone' does not exist"),      # the data of that training
    (["compare", "-p", "runs", "empty"], "empty holds no finished run"),
    (["train", "-p", "group_pattern", "(p"], "no regular expression"),
    (["train", "-p", "weights", "IMAGENET1K_V1"], "the backbone 'small' has no ImageNet weights"),
    (["train", "-p", "precision", "fp16"], "precision is 'fp16', which a CPU cannot train in"),
])
def test_refused_at_once(words, sentence, tmp_path, refused, monkeypatch):
    for name in ("empty", "trained", "two/labels"):
        (tmp_path / name).mkdir(parents=True)
    for name in run_folder.TRAINED:
        (tmp_path / "trained" / name).write_text("data: gone" if name == "params.yaml" else "{}")
    (tmp_path / "two" / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "two" / "labels" / "a.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(papermill, "execute_notebook", lambda *args, **options: pytest.fail("a kernel was started"))
    code, last = refused(*words, "--name", "run")
    assert code == 1 and sentence in last
    assert sorted(tmp_path.rglob("*")) == before


def test_refusing_loads_no_heavy_library(tmp_path):
    code = ("import sys; from frcnn_nbdev.shell import frcnn_report\n"
            "try:\n    frcnn_report(['train', '.'])\n"
            "finally:\n    print(*sorted({'torch', 'papermill', 'sklearn', 'scipy', 'IPython'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and NO_LABELS in done.stderr
    assert done.stdout.splitlines()[-1] == "" and not list(tmp_path.iterdir())


def test_what_only_torch_can_refuse_leaves_no_folder(tmp_path, refused):
    code, last = refused("train", "-p", "backbone", "resnet18", "-p", "weights", "IMAGENET", "--name", "run")
    assert code == 1 and last.endswith("resnet18 has no weights 'IMAGENET': give one of IMAGENET1K_V1, DEFAULT, or the path of a .safetensors or .pth file")
    assert not list((tmp_path / "runs").iterdir())


def test_plain_papermill_with_a_misspelt_parameter(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="the report 'train' has no parameter 'image_sise': did you mean 'image_size'"):
        papermill.execute_notebook(str(ROOT / "reports" / "train.ipynb"), str(tmp_path / "out.ipynb"),
                                   parameters={"image_sise": 64, "out": str(tmp_path / "run")}, progress_bar=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out.ipynb"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("console, told", [(Terminal(), "80"), (io.StringIO(), "0")])
def test_the_kernel_is_told_what_the_console_is(console, told, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(papermill, "execute_notebook", lambda *args, **options: seen.append(os.environ[progress.CONSOLE]))
    monkeypatch.setattr(sys, "stderr", console)
    monkeypatch.delenv(progress.CONSOLE, raising=False)
    reports.execute_report("train", {}, tmp_path, progress=True)
    assert seen == [told] and progress.CONSOLE not in os.environ


def tiny_like(folder: Path, name: str = "run") -> Path:
    "The least that a comparison takes for a finished run."
    run = folder / name
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
    runs = ",".join(str(tiny_like(tmp_path, name)) for name in ("a", "b"))
    with pytest.raises(ValueError, match="there is one run, a: name at least two to compare"):
        reports.run_report("compare", {"runs": str(tmp_path / "a")}, tmp_path / "one", progress=False)
    (tmp_path / "b" / "metrics.json").write_text("{")
    with pytest.raises(reports.ReportError, match=r"the run .* is damaged .*\. What there is of the run is in"):
        reports.run_report("compare", {"runs": runs}, tmp_path / "one", progress=False)
    assert run_folder.failed_early(run_folder.unfinished(tmp_path / "one"))
    assert run_folder.free_folder(tmp_path / "one", {"runs": "others"}) == tmp_path / "one"
    (run_folder.unfinished(tmp_path / "one") / "model.safetensors").write_bytes(b"hours of work")
    assert run_folder.free_folder(tmp_path / "one", {"runs": "others"}) == tmp_path / "one-2"


def test_reports_and_their_parameters_are_listed(capsys):
    shell.frcnn_report(["--list"])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == parameters.report_names() and all(line.endswith(".") for line in listed)
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


def test_the_module_is_a_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "frcnn_nbdev.shell", "train", "-p", "epoch", "3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "has no parameter 'epoch': did you mean 'epochs'?" in done.stderr


def test_the_shell_says_where_it_is_and_opens_the_page(tmp_path, monkeypatch, capfd):
    opened = []
    monkeypatch.setattr(shell.webbrowser, "open", opened.append)
    monkeypatch.chdir(tmp_path)
    shell.frcnn_report(["dataset", "-p", "phantom_train", "8", "-p", "thumbnails", "1", "-p", "image_size", "64", "--name", "small", "--open"])
    said = capfd.readouterr()
    assert "frcnn_report: cell 3 of " in said.err and ": Images and objects" in said.err
    assert "\r" not in said.out + said.err and "%|" not in said.err, "bars are for a terminal"
    told = [line.removeprefix("frcnn_report: ") for line in said.out.splitlines()]
    assert told[1] == "the run folder is runs/small.unfinished, and runs/small when it is finished"
    assert told[2:4] == ["16 images, 16 boxes of AC, FL, HC, HUM; read as color", "check: nothing was found"]
    assert "Images: 8 train, 4 val, 4 test. The splits are those of the folder." in told
    assert told[-2] == "16 images, 16 boxes, classes AC, FL, HC, HUM; 0 findings" and told[-1].startswith("done in ")
    page = (tmp_path / "runs" / "small" / "report.html").read_text()
    assert "check: nothing was found" not in page, "what was for the console is on the page"
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


def with_cells(folder: Path, changes: dict[str, str]) -> Path:
    "A copy of the training report in a folder; where a cell holds a text, other source is put before that text."
    notebook = json.loads((ROOT / "reports" / "train.ipynb").read_text())
    for text, source in changes.items():
        cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code" and text in "".join(cell["source"]))
        cell["source"] = "".join(cell["source"]).replace(text, f"{source}\n{text}", 1)
    folder.mkdir(exist_ok=True)
    (folder / "train.ipynb").write_text(json.dumps(notebook))
    return folder


def test_a_late_failure_leaves_weights_numbers_and_a_page_and_is_gone_on_with(tmp_path, monkeypatch):
    spoiled = tmp_path / "reports"
    monkeypatch.setattr(parameters, "report_folder", lambda: with_cells(spoiled, {"analysis.show_confusion": "raise RuntimeError('no figure today')"}))
    with pytest.raises(reports.ReportError) as stopped:
        reports.run_report("train", TINY, tmp_path / "run", progress=False)
    work = tmp_path / "run.unfinished"
    for words in ("no figure today", str(work), "the trained weights (model.safetensors)", "the numbers so far (metrics.partial.json)",
                  "the page so far (report.html)", "the same command goes on without training again"):
        assert words in str(stopped.value)
    assert not (work / "metrics.json").exists() and not (work / "stopped.ipynb").exists()
    numbers = json.loads((work / "metrics.partial.json").read_text())
    assert numbers["test"]["images"] == 6 and "AP" in numbers["val"] and "threshold" in numbers["analysis"]
    page = (work / "report.html").read_text()
    assert page.index("This report is not complete.") < page.index("Parameters") and "no figure today" in page
    missing = re.search(r"Missing, from where it stopped: (.*?)\.", page)[1].split(", ")
    assert missing[0] == "Test" and missing[-1] == "Times" and not {"Data", "Training"} & set(missing)
    assert len(numbers["analysis"]["intervals"]) and (work / "predictions.csv").exists()

    monkeypatch.setattr(parameters, "report_folder", lambda: with_cells(spoiled, {"training.history.to_csv": "assert training.resumed == training.steps > 0"}))
    run = reports.run_report("train", TINY, tmp_path / "run", progress=False)
    assert sorted(p.name for p in run.iterdir() if p.is_file()) == RUN_FILES and not work.exists()
    assert json.loads((run / "metrics.json").read_text()) == numbers
    assert "This report is not complete." not in (run / "report.html").read_text()


@pytest.mark.parametrize("column, value, sentence", [
    ("pixel_size", 0, "row 1: pixel_size is 0 and must be above 0"), ("pixel_size", -0.1, "row 1: pixel_size is -0.1 and must be above 0"),
    ("size_mm", 0, "row 1: size_mm is 0 and must be above 0"), ("pixel_size", "small", "row 1: pixel_size is 'small', which is not a number"),
])
def test_sizes_that_cannot_be_stop_the_report_before_training(column, value, sentence, tmp_path, refused):
    files = write_folder(tmp_path / "data")
    (files / "boxes.csv").write_text(f"name,x1,x2,y1,y2,classname,{column}\n"
                                     + "".join(f"{number:02d}.png,5,40,5,40,HC,{value}\n" for number in range(12)))
    code, last = refused("train", str(files), "--name", str(tmp_path / "run"))
    assert code == 1 and sentence in last and not list(tmp_path.glob("run*/model.json"))


def write_folder(folder: Path) -> Path:
    "Twelve pictures of noise without labels."
    folder.mkdir()
    for number in range(12):
        cv2.imwrite(str(folder / f"{number:02d}.png"), np.random.default_rng(number).integers(0, 255, (48, 64), np.uint8))
    return folder


@pytest.mark.parametrize("batch_size", [4, 1])
def test_a_last_batch_of_one_small_image(batch_size, tmp_path):
    files = write_folder(tmp_path / "data")
    (files / "boxes.csv").write_text("name,x1,x2,y1,y2,classname,split\n" + "".join(
        f"{number:02d}.png,{number},40,5,40,HC,{'train' if number < 9 else 'val' if number < 10 else 'test'}\n" for number in range(12)))
    params = dict(data=str(files), image_size=16, epochs=1, batch_size=batch_size, tracker="")
    if batch_size == 1:
        with pytest.raises(reports.ReportError, match="batches of one image with an image_size of 16") as stopped:
            reports.run_report("train", params, tmp_path / "run", progress=False)
        assert "learning rate" not in str(stopped.value)
        return
    run = reports.run_report("train", params, tmp_path / "run", progress=False)
    assert pd.read_csv(run / "history.csv")["step"].tolist() == [2]      # 4 and 5 images
    assert "9 training images in batches of 4 leave one over: it joins the batch before it" in (run / "report.html").read_text()


def test_parameters_from_yaml_are_checked(tmp_path):
    (tmp_path / "p.yaml").write_text("lr: 1e-3\nbaseline: 'no'\n")      # both are texts in YAML 1.1
    args = type("Args", (), dict(report="train", file=str(tmp_path / "p.yaml"), data=None, pairs=[["epochs", "3"]]))
    assert parameters.shell_parameters(args) == {"lr": 1e-3, "baseline": False, "epochs": 3}
    with pytest.raises(ValueError, match="'epochs' is True"):
        parameters.check_parameters("train", {"epochs": True})


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
        reports.run_report("train", TINY, tiny)


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
    whole = reports.run_report("train", LONG, tmp_path / "whole", progress=False)
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
    own = reports.run_report("train", dict(params, processes=2), tmp_path / "own", progress=False)
    assert yaml.safe_load((tmp_path / "runs" / "shell" / "params.yaml").read_text())["processes"] == 2
    assert (tmp_path / "runs" / "shell" / "metrics.json").read_bytes() == (own / "metrics.json").read_bytes()


def test_other_parameters_do_not_go_on_in_a_named_folder(tmp_path):
    work = run_folder.unfinished(tmp_path / "run")
    (work / "checkpoints").mkdir(parents=True)
    (work / "params.yaml").write_text(yaml.safe_dump(run_folder.all_parameters("train", {"epochs": 3})))
    with pytest.raises(ValueError, match="with epochs 3 and not 4; with the same parameters it goes on"):
        reports.run_report("train", {"epochs": 4}, tmp_path / "run", progress=False)
    assert (work / "checkpoints").exists()


def test_wheel_imports_without_the_repository(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "reports", "build", "*.egg-info"))
    shutil.copytree(ROOT / "reports", source / "reports", ignore=shutil.ignore_patterns("runs"))
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source],
                   check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")      # an environment made by uv has no pip
    code = ("import sys; sys.path.insert(0, 'site'); import frcnn_nbdev, pathlib, pkgutil, importlib\n"
            "names = [m.name for m in pkgutil.walk_packages(frcnn_nbdev.__path__, 'frcnn_nbdev.')]\n"
            "assert 'frcnn_nbdev.runs.recipe' in names\n"
            "[importlib.import_module(n) for n in names]\n"
            "from frcnn_nbdev.shell import report_names\n"
            "print(pathlib.Path(frcnn_nbdev.__file__).parents[1].name, len(names), report_names())")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("site ") and "'train'" in done.stdout
