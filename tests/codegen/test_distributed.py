"""Layers with tensors sharded over two processes compute the same as one process."""

import subprocess
import sys
from pathlib import Path

import pytest

RANKS = Path(__file__).parent / "distributed_ranks.py"


@pytest.mark.slow
@pytest.mark.parametrize("checks", ["placements", "damaged,images,styles,fsdp"])
def test_two_ranks_compute_what_one_does(checks, tmp_path):
    commands = [[sys.executable, str(RANKS), checks, str(rank), str(tmp_path / "meeting")] for rank in range(2)]
    ranks = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        said = [rank.communicate(timeout=200)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()  # reap the process, or a later test gets the warning
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(text[-3000:] for text in said)
