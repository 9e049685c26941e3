"""The probe benchmark measures the bundled experiments that probe, and records its machine and versions."""

import json
from dataclasses import replace

import pytest

from verify.bench import probe
from verify.training.cli import BUNDLED
from verify.training.config import METHODS
from verify.training.data import digits
from verify.training.experiment import load_experiment
from verify.training.trial import TrialRun


def probes_and_steps(every):
    """How often the smallest trial really probes its layers, and how many steps it takes."""
    config = probe.cheapest(load_experiment(BUNDLED / "smoke.toml").trials)[0]
    assert config.probe_every == every
    run = TrialRun(replace(config, evaluate_every=0), digits(0))
    looks = []
    run.look = lambda: looks.append(run.step)
    while run.advance():
        pass
    return len(looks), run.step


def test_it_writes_ratios_and_circumstances(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(probe, "_ROUNDS", 2)
    code = probe.main(["smoke", "-o", str(tmp_path)])
    found = json.loads((tmp_path / "probe-cost-cpu.json").read_text())
    rows = found["figures"]["smoke"]
    assert set(rows) == set(METHODS)
    for row in rows.values():
        assert row["step_s"] > 0 and row["probe_s"] > 0
        assert (row["probes"], row["steps"]) == probes_and_steps(row["probe_every"])
        assert row["ratio"] == pytest.approx(row["probes"] * row["steps_a_probe"] / row["steps"])
    assert found["commit"] and found["versions"]["torch"]
    assert code == (0 if all(row["ratio"] <= row["bound"] for row in rows.values()) else 1)
    assert "probes in" in capsys.readouterr().out


def test_a_ratio_above_the_bound_exits_1(monkeypatch):
    monkeypatch.setattr(probe, "_ROUNDS", 1)
    monkeypatch.setattr(probe, "BOUND", 0.0)
    assert probe.main(["smoke"]) == 1
