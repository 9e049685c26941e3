"""The benchmark of probes: it measures the bundled experiments that probe and writes where it was run."""

import json

from verify.bench import probe
from verify.training.config import METHODS


def test_it_writes_ratios_and_circumstances(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(probe, "_ROUNDS", 2)
    code = probe.main(["smoke", "-o", str(tmp_path)])
    found = json.loads((tmp_path / "probe-cost-cpu.json").read_text())
    rows = found["figures"]["smoke"]
    assert set(rows) == set(METHODS)
    for row in rows.values():
        assert row["step_s"] > 0 and row["ratio"] * row["probe_every"] * row["step_s"] > 0
    assert found["commit"] and found["versions"]["torch"]
    assert code == (0 if all(row["ratio"] <= row["bound"] for row in rows.values()) else 1)
    assert "one probe in" in capsys.readouterr().out


def test_a_ratio_above_the_bound_exits_1(monkeypatch):
    monkeypatch.setattr(probe, "_ROUNDS", 1)
    monkeypatch.setattr(probe, "BOUND", 0.0)
    assert probe.main(["smoke"]) == 1
