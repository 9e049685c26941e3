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
LONG_NAMES = ("angles", "autograd", "dispatch", "mutants", "patch_operators", "patches", "unit_rows")
LONG = {f"test_{name}.py" for name in LONG_NAMES}
FILES = sorted(FOLDER.glob("test_*.py"))
SHORT = [path for path in FILES if path.name not in LONG]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("paths", "options"),
    [
        pytest.param(SHORT, ("-m", "not slow", "-n", "0"), id="short files"),
        pytest.param(SHORT, ("-m", "slow", "-n", "2"), id="what is slow of short files", marks=pytest.mark.slow),
        pytest.param(set(FILES) - set(SHORT), ("-m", "", "-n", "2"), id="long files", marks=pytest.mark.slow),
    ],
)
def test_in_the_interpreter(paths, options):
    """Many files in one process, since each process must import torch and Triton."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *map(str, sorted(paths))],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout, done.stdout
