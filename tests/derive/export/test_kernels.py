"""A record verifies a kernel only if the digests of its source and of the shared sources match."""

import json

import pytest

from derive.errors import UsageError
from derive.export.kernels import SCHEMA, UNVERIFIED, kernel_digests, kernel_lines, kernel_rows, recorded_runs
from tests.emitted import file_of, shared_by

FILES = {
    file_of("torch", "affine_like.py"): "0",
    file_of("cuda", "affine_like.cu"): "1",
    file_of("cuda", "affine_like.py"): "2",
    shared_by("cuda", "rows.cuh"): "3",
    shared_by("triton", "tiles.py"): "4",
    file_of("triton", "unit.py"): "5",
}


def run(**changed):
    digests = kernel_digests({**FILES, **changed})
    return {
        "device": "a device",
        "versions": {"torch": "2"},
        "commit": "abc",
        "kernels": {name: {"digest": digest, "errors": {"float32": 1e-7}} for name, digest in digests.items()},
    }


def test_kernels_are_the_sources_that_a_gpu_runs():
    assert list(kernel_digests(FILES)) == [file_of("cuda", "affine_like.cu"), file_of("triton", "unit.py")]
    assert kernel_lines([]) == [] and kernel_rows({}, []) == []


@pytest.mark.parametrize(
    ("changed", "verified"),
    [
        ({}, [True, True]),
        ({file_of("cuda", "affine_like.cu"): "x"}, [False, True]),
        ({shared_by("cuda", "rows.cuh"): "x"}, [False, True]),
        ({shared_by("triton", "tiles.py"): "x"}, [True, False]),
        ({file_of("torch", "affine_like.py"): "x"}, [True, True]),
    ],
)
def test_a_change_of_a_source_or_of_what_it_shares_is_not_verified(changed, verified):
    rows = kernel_rows({**FILES, **changed}, [run()])
    assert [bool(row["verified"]) for row in rows] == verified
    lines = kernel_lines(rows)[3:]
    assert [line.endswith("a device") for line in lines] == verified
    assert [line.endswith(UNVERIFIED) for line in lines] == [not v for v in verified]
    told = [{"device": "a device", "versions": {"torch": "2"}, "commit": "abc", "errors": {"float32": 1e-7}}]
    assert all(row["verified"] == told for row in rows if row["verified"])


def test_without_a_record_nothing_is_verified(tmp_path):
    assert recorded_runs(tmp_path / "none.json") == []
    assert not any(row["verified"] for row in kernel_rows(FILES, []))


BROKEN = [
    "no json",
    "[]",
    '{"schema": "another/1", "runs": []}',
    json.dumps({"schema": SCHEMA, "runs": [{**run(), "device": 3}]}),
    json.dumps(
        {"schema": SCHEMA, "runs": [{**run(), "kernels": {file_of("triton", "unit.py"): {"digest": 1, "errors": {}}}}]}
    ),
    json.dumps({"schema": SCHEMA, "runs": [{"device": "a", "commit": "b", "versions": {}}]}),
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_is_no_record_is_refused(text, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"record\.json' is not a record of kernels"):
        recorded_runs(path)
    path.write_text(json.dumps({"schema": SCHEMA, "runs": [run()]}))
    assert recorded_runs(path) == [run()]
