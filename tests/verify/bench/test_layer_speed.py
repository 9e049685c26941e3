"""``affdiv bench --spec``: sizes that grow, the layer and its maps in turn, and the kernels that ran, counted."""

import json

import pytest

import affdiv
from derive.errors import UsageError
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES
from verify.bench.layer_sizes import default_sizes, parse_sizes, products, text_of

NAME = "tanh_features"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(FILES[NAME].text)
    return path


@pytest.mark.parametrize("name", ["tanh_features", "strided", "padded", "tokens", "bag"])
def test_sizes_grow_and_windows_stay_small(name):
    layer = loads_spec(FILES[name].text)
    found = default_sizes(layer, quick=False)
    costs = [products(layer, sizes) for sizes in found]
    assert len(found) == 3 and costs == sorted(costs) and costs[-1] > 100 * costs[0]
    for sizes in found:
        assert parse_sizes(layer, text_of(sizes)) == sizes
        assert sizes.get("k", 3) == 3 and sizes.get("pad", 1) == 1
    if name == "strided":
        assert all(s["l"] == 2 * (s["p"] - 1) + 3 for s in found), "the last window ends where the input does"


@pytest.mark.parametrize("text", ["64x32x48", "n=4", "B=2:n=4:m=0", "B=2:n=4:m=3:k=1", "B=2:n=4:m=99999999999"])
def test_sizes_that_are_not_those_of_the_layer_are_refused(text):
    with pytest.raises(UsageError, match="sizes"):
        parse_sizes(loads_spec(FILES[NAME].text), text)


def test_a_layer_is_timed_and_its_kernels_are_counted(file, tmp_path, capsys):
    words = ["bench", "--spec", str(file), "--quick", "--shapes", "B=40:n=30:m=7", "--json", "-o", str(tmp_path / "r")]
    assert affdiv.run(words) == 0
    run = json.loads(capsys.readouterr().out)
    rows = {(row["computes"], row["provider"]): row for row in run["rows"]}
    assert next(iter(rows)) == (NAME, "composed") and run["schema"] == "affdiv.bench-layer/1"
    for computes in (NAME, f"{NAME}/norm-like", f"{NAME}/affine-like"):
        kernels = rows[computes, "ours, cpp"]["kernels"]
        assert rows[computes, "ours, cpp"]["backend"] == "cpp" and all(count == 1 for count in kernels.values())
        assert any("forward" in name for name in kernels) and any("backward" in name for name in kernels)
        assert rows[computes, "ours, torch"]["backend"] == "torch"
        assert rows[computes, "ours"]["backend"] == "cpp", "so many numbers are worth the kernels"
        assert all(row["difference"] < 1e-6 for row in rows.values())
    assert set(rows[NAME, "composed"]["ratio"]) == {"forward", "backward", "both"}
    assert rows[NAME, "composed"]["ratio"]["both"]["median"] == 1
    assert {run["missing"][f"ours, {target}"] for target in ("triton", "cuda")} == {"needs a GPU (--device cuda)"}
    assert json.loads((tmp_path / "r").read_text())["runs"][0]["rows"] == run["rows"]


WRONG = {
    "plot": (["--plot", "a.svg"], "leave it out with --spec"),
    "sizes": (["--shapes", "4x4x4"], "such as B=64:n=64:m=64"),
    "device": (["--device", "tpu"], "device 'tpu' is not known"),
    "type": (["--dtype", "int8"], "type 'int8' is not known"),
    "file of other results": (["-o", "other.json"], "holds no benchmark results of this kind"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_told_before_anything_is_timed(name, file, capsys, monkeypatch):
    monkeypatch.chdir(file.parent)
    (file.parent / "other.json").write_text('{"schema": "affdiv.bench/1", "runs": []}')
    words, message = WRONG[name]
    assert affdiv.run(["bench", "--spec", "mine.toml", "--quick", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and message in printed.err
