"""``affdiv run`` and ``affdiv verify`` for the user: output, exit codes, messages, and no partial files."""

import json
import re
import subprocess
import sys
import time

import pytest
import torch

import affdiv
from verify.checks import identities, runner
from verify.run.table import print_stages
from verify.training import sweep

NEEDED = {"id", "layer", "backend", "device", "dtype", "status", "measured", "bound", "reason"}


@pytest.fixture
def small(monkeypatch, small_plan):
    """Make ``affdiv run`` train the small plan."""
    monkeypatch.setattr(sweep, "short_plan", lambda seed: small_plan)


@pytest.fixture
def broken_identity(monkeypatch):
    """Make one identity fail: the derived change with the wrong sign."""
    real = identities.sgd_change
    monkeypatch.setattr(identities, "sgd_change", lambda case: -real(case))


def test_verify_prints_a_table_and_the_seed(capsys):
    assert affdiv.run(["verify", "linear", "--seed", "5"]) == 0
    printed = capsys.readouterr()
    for family, backend in (
        ("derivation", "sympy"),
        ("identity", "triton"),
        ("gradient", "torch"),
        ("property", "torch"),
    ):
        assert re.search(rf"\nlinear +{family} +{backend} .* pass ", printed.out)
    assert " 0 failed, " in printed.out and printed.out.endswith("; seed 5\n")
    assert printed.err == ""


def test_verify_json(capsys):
    assert affdiv.run(["verify", "low-rank", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "affdiv.verification/1"
    assert all(check.keys() >= NEEDED and check["layer"] == "low-rank" for check in document["checks"])
    assert document["summary"] == {"pass": len(document["checks"]), "fail": 0, "skipped": 0}


def test_a_failure_exits_1_and_says_how_to_repeat_it(capsys, broken_identity):
    assert affdiv.run(["verify", "affine", "--only", "identity/affine-like/self-factor", "--seed", "9"]) == 1
    printed = capsys.readouterr().out
    assert "failed: identity/affine-like/self-factor (equation affine-like/self-factor)" in printed
    assert "repeat: affdiv verify affine --only identity/affine-like/self-factor --seed 9" in printed
    assert affdiv.run(["verify", "affine", "--only", "identity/affine-like/self-factor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["summary"]["fail"] == 1


def test_verify_lists_its_checks(capsys):
    assert affdiv.run(["verify", "affine", "--list"]) == 0
    assert capsys.readouterr().out.split() == [task.id for task in runner.tasks_for(["affine"])]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_said_and_is_no_success(capsys):
    assert affdiv.run(["verify", "linear", "--device", "cuda", "--only", "identity/linear/self-factor"]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("no CUDA device on this machine") == 1
    assert "0 passed, 0 failed, 1 skipped" in printed.out
    assert printed.err.startswith("error: no check on a device ran: no CUDA device on this machine")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify", "afine"], "no checks for layer 'afine'; layers that can be verified: affine, linear"),
        (["verify", "linear", "--only", "identity/x"], "no check 'identity/x'"),
        (["verify", "linear", "--package", "nowhere"], "__init__.py is missing; name a folder that `affdiv generate"),
        (["verify", "linear", "--device", "tpu"], "device 'tpu' is not known; choose one of cpu, cuda"),
        (["verify", "--seed", "minus"], "Invalid value for '--seed'"),
        (["run", "--seed", "-1"], "Invalid value for '--seed': Input should be greater than or equal to 0"),
        (["run", "--out", "/proc/nowhere"], "output folder '/proc/nowhere' cannot be written"),
    ],
)
def test_wrong_usage_exits_2_with_one_message(words, message, capsys):
    assert affdiv.run(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err


def test_run_writes_its_files_and_prints_the_same_as_json(run_command):
    assert run_command.status == 0
    assert run_command.err == "", "no progress where there is no terminal"
    assert sorted(p.name for p in run_command.folder.iterdir()) == ["report.html", "results.json"]
    result, written = json.loads(run_command.out), json.loads((run_command.folder / "results.json").read_text())
    stages = [stage["name"] for stage in result.pop("stages")]
    assert stages == ["derive", "solve", "generate --check", "verify", "train", "report"]
    written.pop("stages")
    assert result == written


def test_stages_are_printed_as_a_table(small_run, capsys):
    print_stages(small_run[0])
    printed = capsys.readouterr().out
    for stage in ("derive", "solve", "generate --check", "verify", "train", "report", "total"):
        assert f"\n{stage} " in printed
    assert printed.count(" pass ") == 6


def test_run_with_a_failed_check_exits_1_and_still_reports(tmp_path, capsys, small, broken_identity, monkeypatch):
    few = runner.tasks_for(["affine"], ["identity/affine-like/self-factor", "derivation/affine/self-factor"])
    monkeypatch.setattr("verify.run.pipeline.tasks_for", lambda layers: few)
    assert affdiv.run(["run", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "1 passed, 1 failed, 0 skipped: identity/affine-like/self-factor" in printed
    assert 'role="alert"' in (tmp_path / "report.html").read_text()


def test_a_file_in_the_way_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    start = time.process_time()
    assert affdiv.run(["run", "--out", str(tmp_path / "out")]) == 2
    assert time.process_time() - start < 5
    assert "is a file, not a folder; name another folder with --out" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_an_interrupted_run_leaves_nothing(tmp_path, capsys, small, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("verify.run.pipeline.tasks_for", lambda layers: [])
    monkeypatch.setattr("verify.run.pipeline.run_sweep", interrupt)
    assert affdiv.run(["run", "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy():
    code = "import sys, affdiv; affdiv.run(['verify', '-h']); assert not {'torch', 'sympy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
