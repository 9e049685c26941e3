"""Parts in workers: one that raises, dies or hangs ends alone; a second call continues; time limits hold."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from derive.errors import UsageError
from tests.verify.gpu.made_up import part, stage
from verify.gpu.part import FAIL, PASS, Setting
from verify.gpu.run import run_stages
from verify.gpu.stage_file import StageFile, origin
from verify.gpu.summary import lines, summary

ROOT = Path(__file__).parents[3]
MADE = origin(Setting("cpu", ""))


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Setting("cpu", str(tmp_path))


def run(made, setting, seconds=60.0, workers=1, again=False):
    file = StageFile(made, setting, MADE, again)
    run_stages([file], setting, workers, time.monotonic() + seconds, lambda *_: None)
    return file


def begun(setting):
    path = Path(setting.folder, "begun")
    return path.read_text().split() if path.exists() else []


def test_what_raises_or_dies_is_reported_and_the_rest_goes_on(setting):
    parts = [
        part("a", group="one"),
        part("b", group="one", **{"raise": "no such\nkernel"}),
        part("c", group="one", error=float("nan")),
        part("d", kill=True),
        part("e"),
    ]
    file = run(stage(*parts), setting)
    found = {name: result["status"] for name, result in file.results.items()}
    assert found == {"a": PASS, "b": FAIL, "c": PASS, "d": FAIL, "e": PASS} and not file.left
    assert file.results["b"]["reason"] == "ValueError: no such"
    assert "ended by signal 9" in file.results["d"]["reason"]
    assert file.results["a"]["process"] == file.results["c"]["process"] != file.results["e"]["process"]
    held = json.loads((Path(setting.folder) / "kernels.json").read_text())
    assert held["mode"] == "dry-run" and held["complete"] and held["counts"] == {"pass": 3, "fail": 2}
    assert held["parts"]["c"]["error"] == "nan"
    found = summary([file], setting, MADE, 1.0)
    assert not found["ok"] and "nothing was measured on a GPU" in lines(found)[0]
    assert "  failed: b: ValueError: no such" in lines(found)


def test_a_part_that_hangs_is_a_failure_and_the_next_one_runs(setting):
    file = run(stage(part("a", sleep=60, most=3.0), part("b")), setting)
    assert file.results["a"] == {"status": FAIL, "reason": "no result after 3 s"}
    assert file.results["b"]["status"] == PASS


def test_the_time_is_kept_and_a_second_call_goes_on(setting):
    made = stage(part("a"), part("b", sleep=60), part("c", least=30.0), seconds=6.0)
    start = time.monotonic()
    file = run(made, setting, seconds=7.0)
    assert time.monotonic() - start < 20
    assert set(file.results) == {"a"} and begun(setting) == ["a", "b"]
    found = summary([file], setting, MADE, 9.0)
    assert not found["ok"] and lines(found)[-1] == "the time is up; the same command continues from here"
    file = run(stage(part("a"), part("b"), part("c")), setting)
    assert not file.left and begun(setting) == ["a", "b", "b", "c"]
    assert summary([file], setting, MADE, 9.0)["ok"]


def test_a_failure_is_measured_again_only_if_asked(setting):
    run(stage(part("a", **{"raise": "no"}), part("b")), setting)
    run(stage(part("a"), part("b")), setting)
    assert begun(setting) == ["a", "b"]
    file = run(stage(part("a"), part("b")), setting, again=True)
    assert begun(setting) == ["a", "b", "a"] and file.results["a"]["status"] == PASS


@pytest.mark.parametrize("change", ["mode", "device", "sources"])
def test_results_of_something_else_are_neither_used_nor_lost(setting, change):
    file = run(stage(part("a")), setting)
    before = file.path.read_bytes()
    with pytest.raises(UsageError, match=f"was made with another {change}"):
        StageFile(stage(part("a")), setting, {**MADE, change: "other"})
    file.path.write_text('{"schema": 1}')
    with pytest.raises(UsageError, match="holds no results of this program"):
        StageFile(stage(part("a")), setting, MADE)
    assert file.path.read_text() == '{"schema": 1}' and before


def test_sources_that_change_meanwhile_make_no_result(setting, monkeypatch):
    file = StageFile(stage(part("a")), setting, MADE)
    monkeypatch.setattr("verify.gpu.stage_file.origin", lambda _: {**MADE, "sources": "edited"})
    with pytest.raises(UsageError, match="sources changed during the run"):
        run_stages([file], setting, 1, time.monotonic() + 60, lambda *_: None)


PROGRAM = """
import time
from tests.verify.gpu.made_up import part, stage
from tests.verify.gpu.test_run import MADE
from verify.gpu.part import Setting
from verify.gpu.run import run_stages
from verify.gpu.stage_file import StageFile
setting = Setting("cpu", {folder!r})
file = StageFile(stage(part("a"), part("b", sleep=60)), setting, MADE)
run_stages([file], setting, 1, time.monotonic() + 60, lambda *_: None)
"""


def test_a_killed_program_keeps_what_it_knew_and_leaves_no_worker(setting):
    program = subprocess.Popen([sys.executable, "-c", PROGRAM.format(folder=setting.folder)], cwd=ROOT)
    end = time.monotonic() + 60
    while begun(setting) != ["a", "b"] and time.monotonic() < end:
        time.sleep(0.1)
    program.kill()
    program.wait()
    (worker,) = [r["process"] for r in StageFile(stage(part("a")), setting, MADE).results.values()]
    while _alive(worker) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _alive(worker), "the worker ends with the program"
    assert [p.name for p in StageFile(stage(part("a"), part("b")), setting, MADE).left] == ["b"]


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_interrupt_ends_the_workers_and_writes_what_is_known(setting, monkeypatch):
    file = StageFile(stage(part("a"), part("b", sleep=60)), setting, MADE)

    def progress(name, done, total):
        if done == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(file, "_written", float("inf"))  # nothing is written between
    with pytest.raises(KeyboardInterrupt):
        run_stages([file], setting, 1, time.monotonic() + 60, progress)
    assert json.loads(file.path.read_text())["left"] == ["b"]
