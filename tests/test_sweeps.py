"Sweeps: finished runs stay, failed ones are tried again and listed; on threads and on a Dask cluster. A run made again."
import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from frcnn_nbdev import reports, shell
from frcnn_nbdev.runs import folder, sweeps

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"
SMALL = ["-p", "thumbnails", "1", "-p", "image_size", "64"]


@pytest.fixture
def jobs():
    return sweeps.plan_sweep("train", {"data": "elsewhere"}, {"lr": [0.1, 0.2], "seed": [0, 1]})


def test_a_sweep_from_the_shell(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "dataset", *SMALL, "-g", f"data={SAMPLE},{tmp_path / 'gone'}", "--name", str(tmp_path / "grid"), "--retries", "0"]
    for state in ("finished", "found"):
        with pytest.raises(SystemExit) as stopped:
            shell.frcnn_report(words)
        said = capfd.readouterr()
        assert stopped.value.code == 1 and "1 of 2 runs failed: data=gone: the data folder" in said.err
        record = json.loads((tmp_path / "grid" / "sweep.json").read_text())["jobs"]
        assert [(one["name"], one["state"]) for one in record] == [("data=sample", state), ("data=gone", "failed")]
        assert f"frcnn_report: {state:<8} data=sample" in said.out
        words[-1] = "1"
    assert record[1]["tries"] == 2
    assert (tmp_path / "grid" / "data=sample" / "report.html").is_file()


@pytest.mark.parametrize("words, sentence", [
    (["sweep", "train"], "at least one -g"), (["sweep", "train", "-g", "lr"], "is not NAME=VALUE,VALUE"),
    (["sweep", "trian", "-g", "lr=1"], "there is no report 'trian'"), (["sweep", "train", "-g", "epochs=1,x"], "'epochs' is 'x'"),
    (["sweep", "train", "-g", "lr=1", "-p", "lr", "2"], "set for all runs and in the grid"),
    (["sweep", "train", "-g", "lr=1", "--jobs", "0"], "jobs is 0"),
    (["verify", "no/such/run"], "there is no such folder"),
])
def test_mistakes_are_named_before_anything_starts(words, sentence, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        shell.frcnn_report(words)
    assert stopped.value.code == 1 and sentence in capfd.readouterr().err
    assert not list(tmp_path.rglob("*.yaml"))


def test_a_folder_of_another_run_is_not_taken_for_finished(jobs, tmp_path):
    place = tmp_path / jobs[0].name
    place.mkdir()
    (place / "metrics.json").write_text("{}")
    (place / "params.yaml").write_text(yaml.safe_dump({"lr": 9.0}))
    done = sweeps.run_job(jobs[0], str(tmp_path), 1)
    assert done.state == "failed" and "holds a run with another" in done.error and done.tries == 0


@pytest.mark.parametrize("code, state, tries", [(reports.ReportStopped.code, "stopped", 1), (-signal.SIGINT, "stopped", 1), (1, "failed", 3), (-9, "failed", 3)])
def test_what_was_stopped_is_not_tried_again(code, state, tries, jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps.subprocess, "run", lambda *words, **options: subprocess.CompletedProcess(words, code))
    done = sweeps.run_job(jobs[0], str(tmp_path), 1, retries=2)
    assert (done.state, done.tries) == (state, tries)


def test_after_an_interruption_the_waiting_jobs_are_not_begun(jobs, tmp_path):
    begun = []

    def work(job, folder, threads, retries):
        begun.append(job.name)
        time.sleep(0.2)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        sweeps.run_sweep(jobs, tmp_path, work=work, told=lambda line: None)
    assert 1 <= len(begun) < len(jobs)


def test_an_orphan_of_a_killed_sweep_is_waited_for(jobs, tmp_path):
    place = tmp_path / jobs[0].name
    work = folder.unfinished(place)
    work.mkdir()
    sweeps.wait_for_orphan(place)                   # nobody holds a lock
    # A living process: it locks the folder, writes numbers and page, and gives the folder its name.
    code = ("import pathlib, sys, time; from filelock import FileLock; work = pathlib.Path(sys.argv[1])\n"
            "lock = FileLock(work / '.lock'); lock.acquire(); print('locked', flush=True); time.sleep(0.5)\n"
            "(work / 'metrics.json').write_text('{}'); lock.release(); time.sleep(0.5); work.rename(sys.argv[2])")
    orphan = subprocess.Popen([sys.executable, "-c", code, work, place], stdout=subprocess.PIPE, text=True)
    assert orphan.stdout.readline() == "locked\n"
    sweeps.wait_for_orphan(place)
    assert (place / "metrics.json").is_file() and not (work / "metrics.json").exists()
    orphan.communicate()


def pretend(job, folder, threads, retries):
    return replace(job, state="finished" if job.params["lr"] < 0.15 else "failed", tries=1, error="")


def test_threads_keep_the_order_and_the_states(jobs, tmp_path):
    done = sweeps.run_sweep(jobs, tmp_path, at_once=3, work=pretend, told=lambda line: None)
    assert [job.name for job in done] == [job.name for job in jobs]
    assert [job.state for job in done] == ["finished", "finished", "failed", "failed"]


def test_a_dask_cluster_gives_the_same(jobs, tmp_path):
    pytest.importorskip("distributed", reason="Dask is not installed (pip install 'frcnn_nbdev[dask]')")

    def work(job, folder, threads, retries):      # inside the test: a worker has no tests folder to import it from
        from dataclasses import replace
        if job.params["seed"] == 1:
            raise RuntimeError("the worker broke")
        return replace(job, state="finished", tries=1)
    done = sweeps.run_sweep(jobs, tmp_path, at_once=2, scheduler="local", work=work, told=lambda line: None)
    assert [(job.name, job.state) for job in done] == [(job.name, "failed" if job.params["seed"] else "finished") for job in jobs]
    assert done[1].error == "the worker broke"
    with pytest.raises(ValueError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        sweeps.run_sweep(jobs, tmp_path, scheduler="tcp://127.0.0.1:9", work=work)


def test_without_dask_the_extra_is_named(jobs, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else find_spec(name))
    with pytest.raises(ValueError, match=r"frcnn_nbdev\[dask\]"):
        sweeps.run_sweep(jobs, tmp_path, scheduler="local", work=pretend)


def test_a_run_that_is_not_the_same_again(tmp_path):
    run = reports.run_report("dataset", {"data": str(SAMPLE), "thumbnails": 1, "image_size": 64}, tmp_path / "run", progress=False)
    numbers = json.loads((run / "metrics.json").read_text())
    folder.write_json(numbers | {"boxes": 99}, run / "metrics.json")
    facts = json.loads((run / "environment.json").read_text())
    folder.write_json(facts | {"python": "2.7"}, run / "environment.json")
    metrics, surroundings = sweeps.verify_run(run)
    assert metrics == [("boxes", 99, numbers["boxes"])] and surroundings == [("python", "2.7", facts["python"])]
