"""The generation benchmark times what it names, detects more than linear cost, and records its machine."""

from __future__ import annotations

import json

import pytest

from codegen.targets import base
from verify.bench import generation


def test_linear_cost_does_not_grow_and_quadratic_cost_does() -> None:
    """A special cost of the first layer is not growth; a cost that rises with earlier layers is."""
    assert generation.growth([0.9, *[0.1] * 31]) == pytest.approx(1)
    assert generation.growth([0.9, *(0.1 * k for k in range(1, 32))]) > 2.5
    with pytest.raises(ValueError, match="2 layers"):
        generation.growth([0.1, 0.1])


def test_every_layer_is_timed() -> None:
    """One figure per layer, each of real work."""
    seconds = generation.layer_seconds(3)
    assert len(seconds) == 3
    assert min(seconds) > 1e-4


@pytest.mark.slow
def test_the_result_says_where_it_was_measured(tmp_path, monkeypatch, capsys) -> None:
    """The written file names device, versions, commit and command; the plot is an SVG; cost is linear."""
    monkeypatch.setattr(generation, "LAYERS", 8)
    monkeypatch.setattr(generation, "_REPEATS", 1)
    monkeypatch.setattr(base, "NAMES", base.NAMES[:2])
    assert generation.main(["-o", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "generation-cost.json").read_text())
    assert {"device", "versions", "commit", "command", "figures"} <= written.keys()
    assert len(written["figures"]["layer_s"]) == 8
    assert written["figures"]["growth"] < 2
    assert "<svg" in (tmp_path / "generation-cost.svg").read_text()
    assert "8 layers" in capsys.readouterr().out
