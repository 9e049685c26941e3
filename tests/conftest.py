"""Settings and fixtures for every test: one thread, reproducible examples, no display, the command line."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Torch starts one thread per core, in each worker of pytest and each process of a test. These threads spin while they
# wait for one that another worker keeps off its core, which costs six times the processor time and four times the wall
# time. Tests of threads request them. OpenMP reads both variables when it starts, before the first test imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "Agg")
settings.register_profile("steady", deadline=None, derandomize=True)  # on shared cores deadlines fail at random
settings.load_profile("steady")
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a background shell ignores it, and so does every process that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

Completed = subprocess.CompletedProcess[str]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update`` and ``--skips-name``; see their help."""
    parser.addoption("--update", action="store_true", help="rewrite the golden files instead of comparing with them")
    parser.addoption("--skips-name", metavar="REGEX", help="fail if a test is skipped for a reason without a match")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run with ``--skips-name`` in which a test was skipped for another reason; print the reason."""
    allowed, reporter = (
        session.config.getoption("--skips-name"),
        session.config.pluginmanager.get_plugin("terminalreporter"),
    )
    if allowed is None or reporter is None:
        return
    reasons = {str(report.longrepr[2]) for report in reporter.stats.get("skipped", ())}
    for reason in sorted(reason for reason in reasons if not re.search(allowed, reason)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"\nerror: tests may be skipped here for {allowed!r} only, but: {reason}", red=True)


def pytest_collection_finish() -> None:
    """Let the garbage collector overlook what the tests were collected with: thousands of items and whole libraries."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def update(request: pytest.FixtureRequest) -> bool:
    """Whether to rewrite golden files."""
    return bool(request.config.getoption("--update"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def affdiv() -> Callable[..., Completed]:
    """The command line as a real process: ``affdiv("layers", "--json")``; its working folder is ``cwd``."""

    def call(*arguments: str, cwd: Path = ROOT, **environment: str) -> Completed:
        return subprocess.run(
            [sys.executable, str(ROOT / "affdiv.py"), *arguments],
            cwd=cwd,
            env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=240,
        )

    return call


@pytest.fixture
def affdiv_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Completed]:
    """The command line in this process, for tests that do not need a process of its own and its start-up time."""
    from affdiv import run

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: str) -> Completed:
        capsys.readouterr()
        code = run(list(arguments))
        return Completed(arguments, code, *capsys.readouterr())

    return call
