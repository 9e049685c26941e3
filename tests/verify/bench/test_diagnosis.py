"""The diagnosis benchmark measures pairs of steps of a factory's model, and records its machine and versions."""

import json

from codegen.capture.loading import load
from verify.bench import diagnosis
from verify.diagnosis import watch
from verify.diagnosis.batch import arrange
from verify.diagnosis.factory import made

EXAMPLE = "verify.diagnosis.examples:digits"


def test_it_writes_ratios_and_circumstances(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(diagnosis, "_PAIRS", 2)
    code = diagnosis.main([EXAMPLE, "-o", str(tmp_path)])
    found = json.loads((tmp_path / "diagnosis-cost.json").read_text())
    row = found["figures"]["digits"]
    assert row["layers"] == 3 and row["step_s"] > 0 and set(diagnosis.BOUNDS) == set(found["bounds"]) < set(row)
    assert all(row[name] > 0 for name in diagnosis.BOUNDS) and row["factors_memory"] >= 1
    assert found["commit"] and found["versions"]["torch"]
    assert code == (0 if all(row[name] <= bound for name, bound in diagnosis.BOUNDS.items()) else 1)
    assert "of a step in time" in capsys.readouterr().out


def test_memory_that_is_held_for_self_factors_is_seen(monkeypatch):
    """An implementation that kept four copies of the layers' inputs would exceed the bound."""
    monkeypatch.setattr(diagnosis, "_PAIRS", 2)
    model, batch, loss, _ = made(load(EXAMPLE), EXAMPLE)
    held, plain = [], watch.nothing
    monkeypatch.setattr(watch, "nothing", lambda n, k, x: held.extend(x.clone() for _ in range(4)) or plain(n, k, x))
    assert diagnosis.measure(model, arrange(model, batch, loss), 2, (batch, loss))["factors_memory"] > 1.5


def test_a_ratio_above_the_bound_exits_1(monkeypatch):
    monkeypatch.setattr(diagnosis, "_PAIRS", 2)
    monkeypatch.setitem(diagnosis.BOUNDS, "factors", 0.0)
    assert diagnosis.main([EXAMPLE]) == 1
