"""The second process: its tasks, and the checks of a process that fails."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from verify.checks import helper
from verify.checks.record import Setting, Status, Work
from verify.checks.runner import run_checks, run_task, tasks_for

pytest.importorskip("triton", reason="Triton is not installed: there are wheels for Linux only")
KERNEL = "gradient/linear/norm-like/forward/triton"


def test_kernels_run_in_it_and_the_rest_here():
    tasks = tasks_for(["linear"])
    assert {task.backend for task in helper.kernels(tasks, Setting())} == {"triton"}
    assert helper.kernels(tasks, Setting(device="cuda")) == []
    assert helper.shared(tasks, copied=True) == []  # of one layer: little to share


def test_of_many_layers_a_copy_shares_what_any_process_can_do():
    tasks = tasks_for(["linear", "affine", "low-rank", "gated"])
    families = [{task.id.split("/")[0] for task in helper.shared(tasks, copied=copied)} for copied in (False, True)]
    assert families == [{"derivation"}, {"derivation", "identity", "property"}]


def test_a_process_that_interprets_gives_nothing_away(monkeypatch):
    monkeypatch.setenv(helper.SWITCH, "1")
    assert helper.kernels(tasks_for(["linear"]), Setting()) == []
    assert helper.shared(tasks_for(["linear", "affine", "low-rank", "gated"]), copied=True) == []


def test_a_kernel_is_checked_in_the_interpreter():
    (check,) = run_checks(tasks_for(["linear"], [KERNEL]), Setting(seed=3))
    assert (check.status, check.backend, check.device) == (Status.PASS, "triton", "cpu"), check.reason
    assert check.reproduce == f"affdiv verify linear --only {KERNEL} --seed 3"


def test_a_process_that_dies_fails_its_checks_and_says_why(monkeypatch):
    monkeypatch.setattr(helper.sys, "executable", "/bin/false")
    (check,) = run_checks(tasks_for(["linear"], [KERNEL]), Setting())
    assert check.status is Status.FAIL
    assert "returned no result: it ended with exit code 1" in check.reason


def test_a_copy_interprets_kernels_and_shares_the_rest():
    words = ["verify", "linear", "affine", "low-rank", "gated", "--only", KERNEL, "--json"]
    shared = [f"identity/{name}/self-factor" for name in ("linear/norm-like", "affine-like", "low-rank", "gated")]
    words += [word for identity in shared for word in ("--only", identity)]
    ran = subprocess.run([sys.executable, "-m", "affdiv", *words], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {check["status"] for check in json.loads(ran.stdout)["checks"]} == {"pass"}


@pytest.mark.slow
def test_a_copy_derives_a_part_of_the_layers_and_every_step_is_checked_once():
    layers = ["low-rank", "gated", "gain", "embedding"]
    words = [sys.executable, "-m", "affdiv", "verify", *layers, "--json"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    checks = json.loads(ran.stdout)["checks"]
    assert sorted(check["id"] for check in checks) == sorted(task.id for task in tasks_for(layers))
    families = [(check["layer"], check["id"].split("/")[0]) for check in checks]
    assert families == [(task.layer, task.family) for layer in layers for task in tasks_for([layer])]


def test_what_a_copy_derived_is_lost_by_name_when_it_dies():
    (task,) = tasks_for(["linear"], [KERNEL])
    derived = Work((task,), lambda: [replace(task, id="derivation/step", run=lambda setting: os._exit(3))])
    copy = helper.Copy([], [derived], lambda t: run_task(t, Setting()))
    try:
        copy._process.join()
        assert set(copy.checks()) == {"derivation/step", KERNEL}
    finally:
        copy.stop()


def test_a_copy_that_is_killed_fails_its_checks_and_says_why():
    (task,) = tasks_for(["linear"], [KERNEL])
    copy = helper.Copy([replace(task, run=lambda setting: os._exit(3)), task], [], lambda t: run_task(t, Setting()))
    try:
        assert list(copy.share()) == []
        loss = copy.checks()[task.id]
    finally:
        copy.stop()
    assert loss.outcome.status is Status.FAIL
    assert "returned no result: it ended with exit code 3" in loss.outcome.reason
