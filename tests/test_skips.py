"""``--skips-name`` fails a run in which a test was skipped for a reason that the option does not allow."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.skipif(True, reason="needs a GPU")
def test_device(): pass

@pytest.mark.skipif({lacking}, reason="peft is not installed")
def test_library(): pass

@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [False, True])
def test_a_skip_for_another_reason_fails_the_run(tmp_path, lacking):
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "test_some.py").write_text(TESTS.format(lacking=lacking))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", "--skips-name", "GPU|TPU"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == int(lacking), done.stdout
    assert ("for 'GPU|TPU' only, but: peft is not installed" in done.stdout.replace("Skipped: ", "")) == lacking
    assert "but: needs a GPU" not in done.stdout and "known" not in done.stdout
