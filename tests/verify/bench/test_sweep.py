"""The sweep benchmarks: both sides train the same trials, and the stacking rule follows from its measured rows."""

import json
import multiprocessing
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from verify.bench import seed_stacking as together
from verify.bench import sweep
from verify.training import seed_stacks
from verify.training.data import load
from verify.training.trial import run_trial

RULE = Path(seed_stacks.__file__).with_name("seed_stacking.json")


def test_the_plain_loop_learns_what_the_trial_learns():
    (config, *_) = sweep.Request("float64", "cpu", seeds=1, workers=1, rounds=1).trials()
    data = load("digits", 0, torch.float64)
    assert sweep.plain_trial(config, data) > 0.85
    assert run_trial(config, data).test_accuracy > 0.85


def row(products, apart, together, once=0.0):
    return {"products": products, "apart_s": apart, "together_s": together, "once_s": once}


def test_the_rule_stops_where_the_first_team_is_no_faster():
    rows = [row(10, 4.0, 1.0, 9.0), row(20, 3.0, 1.0, 8.0), row(30, 1.0, 1.0), row(40, 5.0, 1.0)]
    assert together.limits(rows) == {"most_products": 20, "least_steps": 4}
    assert together.limits(rows[2:3]) == {"most_products": 0, "least_steps": 0}
    assert together.limits([row(20, 1.05, 1.0)])["most_products"] == 0, "about equal is not faster"


def test_the_rule_in_use_is_that_of_its_rows():
    written = json.loads(RULE.read_text())
    assert written["limits"] == together.limits(written["rows"]) == seed_stacks.measured()
    assert {"device", "versions", "commit", "command"} <= written.keys()


@pytest.mark.slow
def test_the_result_says_where_it_was_measured(tmp_path, capsys):
    words = ["--dtypes", "float32", "--seeds", "2", "--rounds", "1", "--workers", "2", "--epochs", "1"]
    sweep.main([*words, "-o", str(tmp_path)])
    written = json.loads((tmp_path / "sweep-speed.json").read_text())
    assert {"device", "versions", "commit", "command", "figures"} <= written.keys()
    found = written["figures"]["float32"]
    assert (found["trials"], found["trial_steps"]) == (4, 4 * 33)
    assert found["sides"]["plain"]["ratio"] == found["sides"]["plain"]["processor_ratio"] == 1.0
    assert all(side["trial_steps_per_s"] > 0 for side in found["sides"].values())
    assert capsys.readouterr().out.count("trial-steps/s") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "'0' is not a whole number above 0"),
        (["--seeds", "two"], "'two' is not a whole number above 0"),
        pytest.param(
            ["--device", "cuda"],
            "no CUDA device on this machine",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there"),
        ),
    ],
)
def test_wrong_use_is_answered_in_words(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        sweep.main(words)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_process_that_dies_ends_the_benchmark():
    context = multiprocessing.get_context("spawn")
    dies, waits = context.Process(target=sys.exit, args=(3,)), context.Process(target=time.sleep, args=(600,))
    for process in (dies, waits):
        process.start()
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        sweep._collected([dies, waits], context.Queue())
    waits.join(timeout=60)
    assert waits.exitcode == -signal.SIGTERM
