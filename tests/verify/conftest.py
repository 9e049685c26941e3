"""One small run of the real chain, shared by the tests of the report, the table and the files."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

import affdiv
from affine_divergence.runtime import kernel_cache
from verify.run import pipeline
from verify.run.record import RunResult
from verify.threads import one_thread
from verify.training import sweep
from verify.training.config import TrialConfig
from verify.training.sweep import Plan

SMALL = Plan(
    TrialConfig(
        method="none", learning_rate=1.0, seed=3, split_seed=3, width=8, epochs=1, batch_size=128, evaluate_every=4
    ),
    methods=("none", "batch-norm", "norm-like", "affine-like"),
    effective_rates=(1.0, 10.0),
    seeds=2,
    probe_every=4,
)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    """The tensors of these tests are small; threads would only wait for each other."""
    with one_thread():
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_of_these_tests(tmp_path_factory):
    """Layers generated on demand stay out of the user's cache; compiled kernels go there, for all workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernel_cache.VARIABLE, str(kernel_cache.folder()))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def small_plan():
    return SMALL


class SmallRun(NamedTuple):
    """One run of ``affdiv run --json``: its exit status, the result, its folder and what it printed."""

    status: int
    result: RunResult
    folder: Path
    out: str
    err: str


@pytest.fixture(scope="session")
def run_command(tmp_path_factory):
    """One small run by the command line, into a folder that did not exist."""
    folder = tmp_path_factory.mktemp("run") / "new" / "folder"
    results: list[RunResult] = []
    run_chain = pipeline.run_chain

    def kept(*arguments):
        results.append(run_chain(*arguments))
        return results[-1]

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sweep, "short_plan", lambda seed: SMALL)
        patch.setattr(pipeline, "run_chain", kept)
        status = affdiv.run(["run", "--out", str(folder), "--json"])
    return SmallRun(status, *results, folder, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def small_run(run_command):
    """Return the result of a small run and the folder it wrote."""
    return run_command.result, run_command.folder


@pytest.fixture
def failed_run(small_run):
    """Return the small run with its last check failed."""
    result, _ = small_run
    broken = replace(
        result.checks[-1], status=type(result.checks[-1].status).FAIL, reason="a <broken> & bad layer", measured=0.5
    )
    return replace(result, checks=(*result.checks[:-1], broken))
