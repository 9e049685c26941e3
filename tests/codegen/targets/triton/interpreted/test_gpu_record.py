"""What the record of a GPU is made of, measured here by Triton's interpreter, written and read again."""

import pytest
import torch

from affine_divergence import _triton_unit
from derive.export.kernels import kernel_rows, recorded_runs
from derive.export.summary import generated_manifest
from verify import gpu_record
from verify.gpu_record import measured, write_record

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter is NumPy


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One map, and a type that the interpreter rounds as a device does."""
    monkeypatch.setattr(gpu_record, "_TYPES", (torch.float32,))
    monkeypatch.setattr(gpu_record, "_CASES", {"unit": gpu_record._CASES["unit"]})


def test_kernels_that_hold_are_recorded_and_read_again(tmp_path):
    path = tmp_path / "results" / "record.json"
    found = measured("cpu", ("triton",))
    assert set(found) == {"_triton_unit.py"}
    assert write_record(path, found) == write_record(path, found) == []
    assert len(recorded_runs(path)) == 2
    rows = {row["file"]: row["verified"] for row in kernel_rows(generated_manifest()["files"], recorded_runs(path))}
    assert {name for name, verified in rows.items() if verified} == set(found)
    assert all(e < 1e-6 for e in rows["_triton_unit.py"][0]["errors"].values())


def test_a_kernel_that_is_off_is_left_out(tmp_path, monkeypatch):
    launch = _triton_unit._launch
    monkeypatch.setattr(_triton_unit, "_launch", lambda k, like, rows, *rest: launch(k, like, [rows[0], 0], *rest))
    found = measured("cpu", ("triton",))
    assert write_record(tmp_path / "record.json", found) == ["_triton_unit.py"]
    (run,) = recorded_runs(tmp_path / "record.json")
    assert run["kernels"] == {}


@pytest.mark.slow
def test_every_map_can_be_measured(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(gpu_record, "_TYPES", (torch.float32,))
    small = {k: (call, [tuple(min(n, 16) for n in shape) for shape in s]) for k, (call, s) in gpu_record._CASES.items()}
    monkeypatch.setattr(gpu_record, "_CASES", small)
    found = measured("cpu", ("triton",))
    files = [row["file"] for row in kernel_rows(generated_manifest()["files"], [])]
    assert set(found) == {file for file in files if file.startswith("_triton")}
    assert all(kernel["holds"] for kernel in found.values())


def test_every_kernel_of_the_package_has_a_case(monkeypatch):
    monkeypatch.undo()
    names = {row["file"].split(".")[0].split("_", 2)[2] for row in kernel_rows(generated_manifest()["files"], [])}
    assert names <= set(gpu_record._CASES)
