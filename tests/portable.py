"""Runs every notebook and test file that trains under roundings of other machines, one after the other (`make test-portable`).

    python tests/portable.py                      everything
    python tests/portable.py tuning test_sweeps   only parts whose names contain one of these words

A failing part does not stop the others; the end names each and the command that runs it again.
"""
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Instruction sets and threads change the order of sums, so that trainings end elsewhere. Read when Python starts.
MACHINES = {
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
    "SSE": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"},
    "this one, two threads": {"OMP_NUM_THREADS": "2"},
}

# What makes a file one of those that train: the only list there is.
TRAINS = re.compile(r"optimizer\.step\(|def fit\(|import [^\n]*\bfit\b|training\.fit\(|\bfit_anchors\(|\btrain_model\(|\brun_report\(|\btiny_run\b")


def code(file: Path) -> str:
    "The Python of a test file or of a notebook's code cells."
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")


def parts(words: list[str]) -> list[Path]:
    "Notebooks and test files that train, of these words."
    files = sorted((ROOT / "nbs").rglob("*.ipynb")) + sorted((ROOT / "tests").glob("test_*.py"))
    return [file for file in files if TRAINS.search(code(file)) and any(word in file.name for word in words or [""])]


def command(file: Path) -> list[str]:
    "What runs one part, from the checkout's folder."
    name = str(file.relative_to(ROOT))
    if file.suffix == ".py":
        return [sys.executable, "-m", "pytest", "-q", name]
    return [str(Path(sys.executable).with_name("nbdev_test")), "--do_print", "--path", name]


def main(words: list[str]) -> int:
    files, failed = parts(words), []
    if not files:
        print(f"No notebook or test file that trains has {' or '.join(words)} in its name.")
        return 2
    for machine, variables in MACHINES.items():
        setting = " ".join(f"{k}={v}" for k, v in variables.items())
        print(f"== {machine}: {setting}", flush=True)
        for file in files:
            start = time.monotonic()
            done = subprocess.run(command(file), cwd=ROOT, env=os.environ | variables, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            print(f"{'ok  ' if done.returncode == 0 else 'FAIL'} {time.monotonic() - start:5.0f} s  {file.name}", flush=True)
            if done.returncode:
                print(f"{done.stdout[-6000:]}\nexit code {done.returncode}" + " (killed)" * (done.returncode < 0), flush=True)
                failed.append(f"{setting} {' '.join(command(file))}")
    print(f"== {len(files)} notebooks and test files on {len(MACHINES)} machines: {len(failed)} failed")
    for again in failed:
        print(f"   {again}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
