"""The second process: what it is given, and what becomes of checks whose process fails."""

import pytest

from verify.checks import helper
from verify.checks.record import Setting, Status
from verify.checks.runner import run_checks, tasks_for

pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")
KERNEL = "gradient/linear/norm-like/forward/triton"


def test_kernels_run_in_it_and_the_rest_here():
    tasks = tasks_for(["linear"])
    assert {task.backend for task in helper.shared(tasks, Setting())} == {"triton"}
    assert not any(task.backend == "triton" for task in helper.shared(tasks, Setting(device="cuda")))


def test_a_process_that_interprets_gives_nothing_away(monkeypatch):
    monkeypatch.setenv(helper.SWITCH, "1")
    assert helper.shared(tasks_for(["linear"]), Setting()) == []


def test_a_kernel_is_checked_in_the_interpreter():
    (check,) = run_checks(tasks_for(["linear"], [KERNEL]), Setting(seed=3))
    assert (check.status, check.backend, check.device) == (Status.PASS, "triton", "cpu"), check.reason
    assert check.reproduce == f"affdiv verify linear --only {KERNEL} --seed 3"


def test_a_process_that_dies_fails_its_checks_and_says_why(monkeypatch):
    monkeypatch.setattr(helper.sys, "executable", "/bin/false")
    (check,) = run_checks(tasks_for(["linear"], [KERNEL]), Setting())
    assert check.status is Status.FAIL
    assert "gave no result: it ended with code 1" in check.reason
