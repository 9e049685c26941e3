"""Conclusions of stages: targets, the record, the memory checker's output; their parts and times."""

import json
import stat

import pytest

from derive.export.kernels import kernel_rows, recorded_runs
from derive.export.summary import generated_manifest
from verify.gpu import kernels
from verify.gpu.part import FAIL, PASS, SKIPPED, Setting
from verify.gpu.record import run_of, with_run
from verify.gpu.stages import STAGES
from verify.gpu.targets import judged
from verify.gpu.watched import judged as memory_judged
from verify.gpu.watched import watch
from verify.gpu.worker import plain

GPU, DRY = Setting("cuda", "/tmp"), Setting("cpu", "/tmp")


def test_nine_minutes_hold_every_stage_and_names_are_unique():
    assert sum(stage.seconds for stage in STAGES) <= 9 * 60
    for stage in STAGES:
        for setting in (GPU, DRY):
            names = [part.name for part in stage.parts(setting)]
            assert len(set(names)) == len(names) > 0
            assert all(part.least < stage.seconds for part in stage.parts(setting))
            json.dumps([dict(part.request) for part in stage.parts(setting)])


def test_a_kernel_holds_once_all_of_its_parts_have_passed():
    parts = [part.name for part in kernels.parts(GPU)]
    results = {name: {"status": PASS, "error": 1e-3} for name in parts}
    found = kernels.conclude(results, GPU)["kernels"]
    assert all(k["holds"] and set(k["errors"]) == set(kernels.TYPES) for k in found.values())
    first = next(iter(found))
    prefix = "/".join(kernels.backend_and_map(first)) + "/"
    for name in [n for n in parts if n.startswith(prefix)][:3]:
        for change in ({}, {name: {"status": FAIL}}):
            damaged = {key: result for key, result in results.items() if key != name} | change
            judged_anew = kernels.conclude(damaged, GPU)["kernels"]
            assert [file for file in found if not judged_anew[file]["holds"]] == [first]


def test_the_record_is_read_again_and_a_run_takes_the_place_of_its_former_self(tmp_path):
    found = kernels.conclude({p.name: {"status": PASS, "error": 1e-3} for p in kernels.parts(GPU)}, GPU)["kernels"]
    dropped = next(iter(found))
    found[dropped]["holds"] = False
    path = tmp_path / "record.json"
    run = run_of(found, "a device")
    path.write_text(json.dumps(with_run([run, {**run, "device": "another"}], run)))
    runs = recorded_runs(path)
    assert [r["device"] for r in runs] == ["another", "a device"]
    rows = kernel_rows(generated_manifest()["files"], runs[1:])
    assert [row["file"] for row in rows if not row["verified"]] == [dropped]


def row(provider, both, forward=1.0, ours=False):
    ratio = {"both": {"median": both}, "forward": {"median": forward}}
    return {"provider": provider, "ratio": ratio, "ours": ours}


def test_targets_are_judged_by_the_best_of_ours_and_only_where_measured():
    rows = [row("nn.Linear", 1.0), row("plain, compiled", 2.2), row("ours", 1.3, ours=True)]
    rows += [row("ours, Triton", 1.1, ours=True), row("ours, graph", 0.1, ours=True)]
    found = judged({"65536x256x256": {"speed": {"rows": rows}}, "row-norm prepass": {"copy_share": 0.89}})
    assert [(t["measured"], t["reached"]) for t in found] == [(1.1, True), (pytest.approx(2.0), True), (0.89, False)]
    assert not judged({}) and found[1]["at_least"] == 1.8
    without = judged({"65536x256x256": {"speed": {"rows": [row("nn.Linear", 1.0)]}}})
    assert [(t["measured"], t["reached"]) for t in without] == [(None, False)] * 2


SOUND = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
BROKEN = SOUND.replace("========= ERROR", "========= Invalid __global__ write of size 4 bytes\n========= ERROR")
BROKEN = BROKEN.replace("0 errors", "2 errors")
USELESS = "========= COMPUTE-SANITIZER\n========= Error: Device not supported\n"


@pytest.mark.parametrize(
    ("output", "code", "planted", "status", "reason"),
    [
        (SOUND, 0, False, PASS, None),
        (SOUND, 0, True, FAIL, "missed a planted access"),
        (SOUND + "ValueError: no\n", 1, False, FAIL, "ValueError: no"),
        (BROKEN, 1, False, FAIL, "Invalid __global__ write"),
        (BROKEN, 1, True, PASS, None),
        (USELESS, 1, False, SKIPPED, "does not work here: Error: Device not supported"),
        ("", 1, False, SKIPPED, "no message"),
    ],
)
def test_what_memcheck_says(output, code, planted, status, reason):
    found = memory_judged(output, code, planted)
    assert found["status"] == status
    assert reason is None or reason in found["reason"]


def test_the_tool_is_run_around_a_process_of_its_own(tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\necho "$@" >> "$0.log"\necho "========= Error: Device not supported"\nexit 1\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    request = {"backend": "cuda", "map": "unit", "shape": (1, 1, 1, 1, 8), "dtypes": ("float32",)}
    found = watch(request, GPU)
    assert found["status"] == SKIPPED and "Device not supported" in found["reason"]
    assert "--tool memcheck" in (tmp_path / "compute-sanitizer.log").read_text()


def test_results_are_plain_data():
    held = plain({"a": [1.0, float("nan")], "b": ({"c": float("-inf")},)})
    assert held == {"a": [1.0, "nan"], "b": [{"c": "-inf"}]}
