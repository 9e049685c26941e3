"""``affdiv bench --suite growth``: slopes and cliffs of artificial curves, real points, invalid usage."""

import json
import math
from xml.etree import ElementTree

import pytest
import torch

import affdiv
from verify.bench.growth import Growth, GrowthRow, cases, curve
from verify.bench.growth_table import plot_growth, print_growth


def rows(times, limits, axis="batch"):
    return [
        GrowthRow("made up", axis, 2**k, 1, 9, time, time, limit)
        for k, (time, limit) in enumerate(zip(times, limits, strict=True))
    ]


@pytest.mark.parametrize("power", [0.5, 1.0, 1.7])
def test_the_slope_is_the_power(power):
    limits = [10.0**k for k in range(5)]
    found = curve(rows([3 * t**power for t in limits], limits), "made up", "batch")
    assert math.isclose(found.slope, power, rel_tol=1e-9)
    assert math.isclose(found.step, 10 ** (power - 1), rel_tol=1e-9)
    assert found.cliff == (10 ** (power - 1) > 2)


def test_a_jump_is_a_cliff_at_its_size():
    found = curve(rows([1, 2, 4, 24, 48], [1, 2, 4, 8, 16]), "made up", "batch")
    assert found.cliff and found.at == 8 and math.isclose(found.step, 3)


def test_every_point_has_two_layers_of_one_shape_and_its_own_work():
    points = cases(2)
    assert {case.axis for case in points} == {"batch", "width", "channels", "kernel", "threads"}
    for case in points:
        if case.operations > 2e8:
            continue
        x = torch.zeros(case.input_shape)
        assert case.torchs()(x).shape == case.ours()(x).shape
        weight = case.torchs().weight
        places = case.torchs()(x).numel() // weight.shape[0]
        assert case.operations == 6 * places * weight.numel()


def test_curves_over_threads_are_not_judged():
    found = Growth("cpu", 0, (), tuple(rows([1, 9], [1, 1], "threads")))
    assert not found.curves and found.to_json()["curves"] == []


@pytest.mark.slow
def test_a_run_is_told_kept_and_drawn(tmp_path, capsys):
    out, picture = tmp_path / "growth.json", tmp_path / "growth.svg"
    words = ["bench", "--suite", "growth", "--quick", "--seconds", "0", "-o", str(out), "--plot", str(picture)]
    assert affdiv.run(words) == 0
    told = capsys.readouterr().out
    assert "linear 512 to 512, by batch" in told and "slope" in told
    (run,) = json.loads(out.read_text())["runs"]
    assert run["schema"] == "affdiv.bench-growth/1" and run["circumstances"]["sources"]
    assert all(row["ours"] > 0 and row["limit"] > 0 for row in run["rows"])
    ElementTree.fromstring(picture.read_text())


def test_the_picture_has_a_panel_a_curve_and_the_table_a_line_a_point(capsys):
    found = Growth("cpu", 0, (), (*rows([1, 2], [1, 2]), *rows([1, 1], [1, 1], "threads")))
    text = plot_growth(found)
    assert text.count("made up") == 2 and text == plot_growth(found)
    print_growth(found)
    assert "made up, by threads" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--shapes", "8x4x4"], ["--dtype", "float64"]])
def test_sizes_and_types_are_its_own(option, capsys):
    assert affdiv.run(["bench", "--suite", "growth", *option]) == 2
    assert option[0] in capsys.readouterr().err


def test_other_suites_draw_nothing(tmp_path, capsys):
    assert affdiv.run(["bench", "--suite", "quick", "--plot", str(tmp_path / "a.svg")]) == 2
    assert "only `--suite growth` plots" in capsys.readouterr().err
