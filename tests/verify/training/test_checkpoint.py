"""Checkpoints: a resumed run gives the same bits; a damaged checkpoint is detected and changes nothing."""

import json
import os
from dataclasses import replace

import pytest
import torch

from verify.training import checkpoint
from verify.training.checkpoint import DamagedCheckpoint, load_checkpoint, remove_checkpoints, save_checkpoint
from verify.training.config import METHODS, UPDATES, TrialConfig
from verify.training.data import Split, digits, load
from verify.training.trial import TrialRun

CONFIG = TrialConfig(method="none", learning_rate=0.1, width=8, depth=1, epochs=2, evaluate_every=7, probe_every=10)


@pytest.fixture(scope="module")
def data():
    whole = digits(seed=0)
    return replace(whole, train=Split(whole.train.x[:320], whole.train.y[:320]))


def finished(run):
    while run.advance():
        pass
    weights = {name: value.numpy().tobytes() for name, value in run.model.state_dict().items()}
    return json.dumps(run.result().to_json()), weights


@pytest.mark.parametrize(
    ("method", "update", "dtype"),
    [(method, "sgd", "float64") for method in METHODS]
    + [("batch-norm", update, "float32") for update in UPDATES]
    + [("affine-like", update, "float64") for update in UPDATES[1:]],
)
def test_going_on_gives_the_same_bits(method, update, dtype, data, tmp_path):
    config = replace(CONFIG, method=method, update=update, dtype=dtype, learning_rate=0.01)
    path = tmp_path / "trial.safetensors"
    part = digits(0, config.torch_dtype)
    part = replace(part, train=part.train.first(320))
    stopped = TrialRun(config, part)
    for _ in range(13):
        stopped.advance()
    save_checkpoint(stopped, path)
    resumed = TrialRun(config, part)
    load_checkpoint(resumed, path)
    assert resumed.step == 13
    assert finished(resumed) == finished(TrialRun(config, part))


@pytest.mark.parametrize(
    ("model", "method", "update"),
    [
        ("cnn", "batch-norm", "momentum"),
        ("cnn", "patch-norm", "adam"),
        ("cnn", "patch-norm-like", "foof"),
        ("transformer", "affine-like", "nlms"),
        ("transformer", "qk-norm", "adam"),
        ("transformer", "norm-like", "momentum"),
    ],
)
def test_other_networks_go_on_with_the_same_bits(model, method, update, data, tmp_path):
    settings = {"width": 3, "depth": 2, "epochs": None, "steps": 6, "evaluate_every": 4, "probe_every": 2}
    config = replace(CONFIG, model=model, method=method, update=update, evaluation_samples=40, context=8, **settings)
    data = load("declaration", 0, context=8) if model == "transformer" else data
    stopped, resumed = TrialRun(config, data), TrialRun(config, data)
    for _ in range(3):
        stopped.advance()
    save_checkpoint(stopped, tmp_path / "trial.safetensors")
    load_checkpoint(resumed, tmp_path / "trial.safetensors")
    assert resumed.step == 3 and len(resumed.own_steps) == 2 * len(resumed.model.measured_layers())
    assert finished(resumed) == finished(TrialRun(config, data))


def test_the_end_itself_can_be_saved(data, tmp_path):
    run = TrialRun(CONFIG, data)
    whole = finished(run)
    save_checkpoint(run, tmp_path / "end.safetensors")
    again = TrialRun(CONFIG, data)
    load_checkpoint(again, tmp_path / "end.safetensors")
    assert finished(again) == whole


def test_a_diverged_run_stays_diverged(data, tmp_path):
    config = replace(CONFIG, activation="relu", learning_rate=1e12)
    run = TrialRun(config, data)
    whole = finished(run)
    save_checkpoint(run, tmp_path / "d.safetensors")
    again = TrialRun(config, data)
    load_checkpoint(again, tmp_path / "d.safetensors")
    assert again.diverged_at == run.diverged_at is not None
    assert finished(again)[0] == whole[0]


@pytest.fixture
def saved(data, tmp_path):
    run = TrialRun(replace(CONFIG, update="adam"), data)
    for _ in range(9):
        run.advance()
    path = tmp_path / "trial.safetensors"
    save_checkpoint(run, path)
    return run, path


def test_damage_anywhere_is_noticed_and_leaves_the_run_as_it_was(saved, data):
    run, path = saved
    content = path.read_bytes()
    size = len(content)
    damaged = [content[:end] for end in (0, 1, 8, 100, size // 2, size - 1)]
    for place in range(8, size, size // 23):
        damaged.append(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    fresh = TrialRun(run.config, data)
    before = {name: value.clone() for name, value in fresh.model.state_dict().items()}
    for broken in damaged:
        path.write_bytes(broken)
        with pytest.raises(DamagedCheckpoint):
            load_checkpoint(fresh, path)
    assert fresh.step == 0
    assert all(torch.equal(before[name], value) for name, value in fresh.model.state_dict().items())
    path.write_bytes(content)
    load_checkpoint(fresh, path)
    assert fresh.step == 9


def test_another_trials_checkpoint_is_refused(saved, data):
    run, path = saved
    with pytest.raises(DamagedCheckpoint, match="another trial"):
        load_checkpoint(TrialRun(replace(run.config, seed=1), data), path)


def test_no_checkpoint_is_no_damage(saved, data, tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(TrialRun(CONFIG, data), tmp_path / "absent.safetensors")


def test_a_failed_write_keeps_the_former_checkpoint(saved, monkeypatch):
    run, path = saved
    content = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    run.advance()
    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(run, path)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_what_a_trial_left_is_removed(saved):
    _, path = saved
    other = path.with_name("other.safetensors")
    other.write_bytes(b"")
    path.with_name(".trial.77.tmp").write_bytes(b"half")
    remove_checkpoints(path.parent, "trial")
    assert os.listdir(path.parent) == [other.name]
