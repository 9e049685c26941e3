"""One small run of the real chain, shared by the tests of the report, the table and the files."""

from dataclasses import replace

import pytest

from affine_divergence.runtime import kernel_cache
from verify.run.pipeline import run_chain
from verify.run.progress import Silent
from verify.threads import one_thread
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
    """Layers that are generated on demand are not left in the user's cache; compiled kernels are, for all workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernel_cache.VARIABLE, str(kernel_cache.folder()))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def small_plan():
    return SMALL


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """Return the result of a small run and the folder it wrote."""
    folder = tmp_path_factory.mktemp("run") / "out"
    return run_chain(SMALL, folder, Silent()), folder


@pytest.fixture
def failed_run(small_run):
    """Return the small run with its last check failed."""
    result, _ = small_run
    broken = replace(
        result.checks[-1], status=type(result.checks[-1].status).FAIL, reason="a <broken> & bad layer", measured=0.5
    )
    return replace(result, checks=(*result.checks[:-1], broken))
