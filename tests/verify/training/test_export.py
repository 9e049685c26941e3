"""The exported table: every setting and metric, sorted, the same bytes for the same results."""

import csv
import io
from dataclasses import asdict, fields, replace

from verify.training.config import TrialConfig
from verify.training.export import COLUMNS, METRICS, SCALE, metrics_of, to_csv
from verify.training.store import Row

BASE = TrialConfig(method="none", learning_rate=0.1)


def point(step, accuracy):
    return {"step": step, "train_loss": 0.1 * step, "validation_loss": 1 / 3, "validation_accuracy": accuracy}


def spread(low, high, variation):
    return {"minimum": low, "maximum": high, "coefficient_of_variation": variation}


def own(error, exact, bound, share):
    return {"error": error, "error_float64": exact, "bound": bound, "self_share": share}


DONE = {
    "points": [point(0, 0.1), point(5, 0.9), point(9, 0.8)],
    "spreads": [spread(2.0, 4.0, 0.3), spread(2.0, 7.0, 0.2)],
    "diverged_at": None,
    "test_accuracy": 0.75,
    "test_loss": 2 / 3,
}


def row(identity, state="done", result=DONE, **settings):
    return Row(identity, replace(BASE, **settings), state, 9, 9, 0, None, result if state == "done" else None)


def read(rows):
    return list(csv.DictReader(io.StringIO(to_csv(rows))))


def test_every_setting_and_metric_is_a_column():
    assert set(COLUMNS) == {"trial", "state", *SCALE, *METRICS, *(field.name for field in fields(TrialConfig))}
    (values,) = read([row("a", seed=3)])
    assert values["trial"] == "a" and values["state"] == "done" and values["outcome"] == "finished"
    settings = asdict(replace(BASE, seed=3))
    assert {name: values[name] for name in settings} == {k: "" if v is None else str(v) for k, v in settings.items()}


def test_metrics_of_a_finished_trial():
    found = metrics_of(DONE)
    assert set(found) == set(METRICS)
    assert (found["train_loss"], found["validation_accuracy"], found["best_validation_accuracy"]) == (0.9, 0.8, 0.9)
    assert (found["largest_self_factor_ratio"], found["largest_self_factor_variation"]) == (3.5, 0.3)
    assert (found["test_loss"], found["test_accuracy"]) == (2 / 3, 0.75)
    assert found["largest_identity_error"] is found["mean_self_share"] is None


def test_metrics_of_own_steps():
    steps = [own(3e-7, 1e-16, 1e-6, 0.5), own(4e-7, 5e-17, 1e-5, 0.25), own(None, None, 1e-6, None)]
    found = metrics_of({**DONE, "own_steps": steps})
    assert (found["largest_identity_error"], found["largest_identity_error_float64"]) == (4e-7, 1e-16)
    assert found["largest_identity_error_over_bound"] == 3e-7 / 1e-6
    assert (found["smallest_self_share"], found["mean_self_share"]) == (0.25, 0.375)


def test_a_diverged_trial_is_a_row_with_its_step():
    result = {**DONE, "diverged_at": 7, "test_accuracy": None, "test_loss": None}
    (values,) = read([row("a", result=result)])
    assert (values["outcome"], values["diverged_at"], values["best_validation_accuracy"]) == ("diverged", "7", "0.9")
    assert values["test_accuracy"] == values["train_loss"] == values["validation_accuracy"] == ""


def test_a_trial_that_diverged_at_once_has_no_points():
    found = metrics_of({"points": [], "spreads": [], "diverged_at": 0, "test_accuracy": None, "test_loss": None})
    assert (found["diverged_at"], found["best_validation_accuracy"]) == (0, None)


def test_a_trial_that_is_not_done_is_a_row_too():
    (values,) = read([row("a", state="pending")])
    assert (values["state"], values["outcome"], values["test_accuracy"]) == ("pending", "", "")


def test_rows_are_sorted_by_value_whatever_their_order():
    rows = [
        row("a", learning_rate=10.0),
        row("b", learning_rate=9.0),
        row("c", method="affine-like"),
        row("d", seed=10),
    ]
    rows.append(row("e", seed=2))
    assert [values["trial"] for values in read(rows)] == ["c", "e", "d", "b", "a"]
    assert to_csv(rows) == to_csv(rows[::-1])


def test_lengths_in_steps_and_in_epochs_stand_in_one_table():
    rows = [row("a", epochs=None, steps=7), row("b", epochs=3)]
    assert [(values["epochs"], values["steps"]) for values in read(rows)] == [("3", ""), ("", "7")]


def test_floats_read_back_as_they_were():
    (values,) = read([row("a", learning_rate=1 / 3)])
    assert float(values["learning_rate"]) == 1 / 3 and float(values["test_loss"]) == 2 / 3
