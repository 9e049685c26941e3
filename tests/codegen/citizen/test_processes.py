"""Two processes that share a batch (and the parameters too) have the same gradients as one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed

from tests.codegen.citizen.ranks import gradients, model_and_batch

ROOT = Path(__file__).parents[3]
RANKS = 2
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo"),
]


def run(way, folder):
    """Run every rank of a job; its processes are always terminated."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("ranks.py")), way]
    jobs = [
        subprocess.Popen(
            [*command, str(rank), str(RANKS), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        for job in jobs:
            text, _ = job.communicate(timeout=200)
            assert job.returncode == 0, text
    finally:
        for job in jobs:
            job.kill()
            job.communicate()  # reap the process, or a later test gets the warning


def alone():
    model, batch = model_and_batch()
    model(batch).mean().backward()
    return gradients(model)


def alike(found, expected):
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name], expected[name], rtol=1e-10, atol=1e-13) for name in expected
    )


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_gradients_are_those_of_one_process(way, tmp_path):
    expected = alone()
    assert all(g.abs().max() > 1e-6 for g in expected.values()), "a gradient is zero, so the comparison proves nothing"
    run(way, tmp_path)
    assert all(alike(torch.load(tmp_path / f"{rank}.pt"), expected) for rank in range(RANKS))
    if way == "ddp":
        apart = [torch.load(tmp_path / f"{rank}-apart.pt") for rank in range(RANKS)]
        assert not any(alike(found, expected) for found in apart), "missing synchronisation is not noticed"
