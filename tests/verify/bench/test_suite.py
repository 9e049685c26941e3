"""``affdiv bench --suite``: cases whose three modules agree in shape, verdicts by intervals, invalid usage."""

import json

import pytest
import torch

import affdiv
from verify.bench import speed_note, suite, suite_cases
from verify.bench.against import Ratio
from verify.bench.suite import AHEAD, BEHIND, LEVEL, verdict
from verify.bench.suite_cases import FULL, QUICK, cases

SMALL = ("linear 32 x 64 x 10", "attention, 8 x 256 x 256")


@pytest.mark.parametrize("case", [case for case in cases(FULL) if "ResNet" not in case.name], ids=lambda c: c.name)
def test_the_three_modules_of_a_case_take_one_input_and_agree_in_shape(case):
    x = torch.randn(2 if "attention" not in case.name else 8, *case.input_shape[1:])
    with torch.no_grad():
        shapes = [make()(x).shape for make in (case.torchs, case.peer, case.ours)]
    assert len(set(shapes)) == 1


def test_ours_corrects_every_layer_of_the_models():
    from torch import nn

    for case in cases(FULL)[-2:]:
        kinds = [type(m) for m in case.ours().modules()]
        assert not {nn.Linear, nn.Conv2d, nn.MultiheadAttention, nn.BatchNorm2d, nn.LayerNorm} & set(kinds)
        assert any(kind.__name__ in ("BatchNorm2d", "LayerNorm") for kind in map(type, case.peer().modules()))


def test_the_quick_suite_is_a_part_of_the_full_one():
    names = [case.name for case in cases(FULL)]
    assert len(set(names)) == len(names)
    assert {case.name for case in cases(QUICK)} < set(names)


def test_a_verdict_follows_the_interval():
    found = [verdict(Ratio(m, m - 0.02, m + 0.02)) for m in (0.9, 0.99, 1.01, 1.1)]
    assert found == [AHEAD, LEVEL, LEVEL, BEHIND]


def test_a_slower_layer_is_behind(monkeypatch):
    """A layer that does its work ten times is judged slower."""

    class Tenfold(torch.nn.Linear):
        def forward(self, x):
            for _ in range(9):
                super().forward(x)
            return super().forward(x)

    (case,) = (c for c in cases(FULL) if c.name == "linear 128 x 512 x 512")
    slow = suite_cases.Case("slow", case.torchs, case.torchs, lambda: Tenfold(512, 512), "nothing", (128, 512))
    monkeypatch.setattr(suite, "cases", lambda name: [slow])
    (row,) = suite.measure_suite(QUICK, "cpu", 1.0, 0, lambda *told: None).rows
    assert row.verdict == BEHIND and row.ours_to_peer.median > 1.1


def test_a_run_is_kept_and_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(suite, "cases", lambda name: [c for c in cases(QUICK) if c.name in SMALL])
    out = tmp_path / "suite.json"
    assert affdiv.run(["bench", "--suite", "quick", "--seconds", "0", "-o", str(out), "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "of 2 rows" in shown and "(LayerNorm)" in shown and max(map(len, shown.splitlines())) <= 80
    (run,) = json.loads(out.read_text())["runs"]
    assert run["schema"] == "affdiv.bench-suite/1" and [row["case"] for row in run["rows"]] == list(SMALL)
    assert all(row["rounds"] >= 12 and row["verdict"] for row in run["rows"])
    assert run["rows"][0]["saved"][2] == run["rows"][0]["saved"][0] + 4 * 32  # four bytes a row

    marks = f"# Speed\n{speed_note.SUITE_BEGIN}\n{speed_note.SUITE_END}\n"
    told = speed_note.rewritten(marks, [run])
    assert speed_note.rewritten(told, [run]) == told and f"| {SMALL[0]} (LayerNorm) |" in told


@pytest.mark.slow
def test_compiled_modules_have_rows_of_their_own(monkeypatch):
    monkeypatch.setattr(suite, "cases", lambda name: [c for c in cases(FULL) if c.name == SMALL[0]])
    rows = suite.measure_suite(FULL, "cpu", 0.0, 0, lambda *told: None).rows
    assert [row.compiled for row in rows] == [False, True] and rows[1].verdict and rows[1].saved is None


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--suite", "large"], "choose one of quick, full"),
        (["--suite", "quick", "--shapes", "2x2x2"], "leave out --shapes"),
        (["--suite", "quick", "--dtype", "float16"], "leave out --dtype"),
        (["--suite", "quick", "--against", "folder"], "leave out --against"),
        (["--suite", "quick", "--threads", "none"], "is not a list of numbers"),
    ],
)
def test_wrong_use(words, part, capsys):
    assert affdiv.run(["bench", *words]) == 2
    assert part in capsys.readouterr().err
