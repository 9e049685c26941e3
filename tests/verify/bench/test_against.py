"""``affdiv bench --against``: the ratio of two generated packages."""

import json

import pytest

from verify.bench.against import Ratio


def test_the_interval_holds_the_median_and_narrows_with_more_rounds():
    ours, other = [1.0 + k / 100 for k in range(100)], [1.0] * 100
    wide, narrow = Ratio.of(ours[::5], other[::5]), Ratio.of(ours, other)
    for ratio in (wide, narrow):
        assert ratio.low <= ratio.median <= ratio.high
    assert narrow.high - narrow.low < wide.high - wide.low


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    import random

    draw, held = random.Random(0), 0
    for _ in range(400):
        ratio = Ratio.of([draw.lognormvariate(0, 1) for _ in range(31)], [1.0] * 31)
        held += ratio.low <= 1.0 <= ratio.high
    assert held / 400 >= 0.93


@pytest.mark.slow
def test_a_package_against_itself(tmp_path, capsys):
    import affdiv
    from codegen.compiler import build
    from codegen.package import write

    write(build("other_layers", ("torch",)), tmp_path / "other_layers")
    out = tmp_path / "runs.json"
    command = ["bench", "--against", str(tmp_path / "other_layers"), "--quick", "--shapes", "8x4x4", "--json", "-o"]
    assert affdiv.run([*command, str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "affdiv.bench-against/1"
    assert {(row["shape"], row["computes"]) for row in told["rows"]} == {
        ("8x4x4", "affine-like"),
        ("8x4x4", "norm-like"),
    }
    assert all(row["ratio"]["both"]["low"] <= row["ratio"]["both"]["high"] for row in told["rows"])
    assert json.loads(out.read_text())["runs"][0]["rows"] == told["rows"]


def test_wrong_folders_and_options_are_refused_by_name(tmp_path, capsys):
    import affdiv

    assert affdiv.run(["bench", "--against", str(tmp_path), "--quick"]) == 2
    assert "--against" in capsys.readouterr().err
    assert affdiv.run(["bench", "--against", "x", "--spec", "y.toml"]) == 2
    assert "leave out --spec" in capsys.readouterr().err
