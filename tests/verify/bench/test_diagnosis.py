"""The benchmark of self factors: it measures pairs of steps of what a factory makes and writes where it was run."""

import json

from verify.bench import diagnosis

EXAMPLE = "verify.diagnosis.examples:digits"


def test_it_writes_ratios_and_circumstances(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(diagnosis, "_PAIRS", 2)
    code = diagnosis.main([EXAMPLE, "-o", str(tmp_path)])
    found = json.loads((tmp_path / "diagnosis-cost.json").read_text())
    row = found["figures"]["digits"]
    assert row["layers"] == 3 and row["step_s"] > 0 and row["ratio"] > 0
    assert found["commit"] and found["versions"]["torch"]
    ratios = [("ratio", "bound"), ("first_step_ratio", "first_step_bound"), ("watched_ratio", "watched_bound")]
    assert code == (0 if all(row[ratio] <= row[bound] for ratio, bound in ratios) else 1)
    assert "of a step without" in capsys.readouterr().out


def test_a_ratio_above_the_bound_exits_1(monkeypatch):
    monkeypatch.setattr(diagnosis, "BOUND", 0.0)
    assert diagnosis.main([EXAMPLE]) == 1
