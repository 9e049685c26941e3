"""Run the tests of ``interpreted/`` in Triton's interpreter, which needs no GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")

ROOT = Path(__file__).parents[4]
FOLDER = Path(__file__).parent / "interpreted"
SLOW = {f"test_{name}.py" for name in ("angles", "autograd", "dispatch", "mutants", "patch_operators", "patches")}
FILES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.name in SLOW else [])
    for path in sorted(FOLDER.glob("test_*.py"))
]
WORKERS = {True: "2", False: "0"}  # a short file ends before more processes have started


@pytest.mark.parametrize("file", FILES)
def test_in_the_interpreter(file):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "",
            "-n",
            WORKERS[file.name in SLOW],
            str(file),
        ],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout, done.stdout
