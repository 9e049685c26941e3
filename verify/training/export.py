"""The table of an experiment as CSV: one row per trial, sorted, with every setting and every metric.

``kappa`` is the self factor that the method gives a layer of the network's width (the average if samples differ).
``effective_rate`` is the learning rate times kappa; methods with equal effective rates take equal steps in activation
space.

The table contains nothing that depends on when or where a trial ran, so an interrupted sweep gives the same bytes. A
float is written with enough digits to read the same float back; missing values are left empty.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from verify.training.config import TrialConfig
from verify.training.experiment import SETTINGS
from verify.training.store import Row
from verify.training.sweep import nominal_kappa

METRICS = (
    "outcome",
    "diverged_at",
    "train_loss",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "best_validation_accuracy",
    "largest_self_factor_ratio",
    "largest_self_factor_variation",
    "largest_identity_error",
    "largest_identity_error_float64",
    "largest_identity_error_over_bound",
    "smallest_self_share",
    "mean_self_share",
)
FROM_TABLE = (
    "from_table"  # marks the metrics of a result from a table, which has no training curve to compute them from
)
INFINITE = "inf"  # infinity in such metrics, which JSON cannot represent
SCALE = ("kappa", "effective_rate")
_COMPUTED = ("=", "+", "-", "@", "\t", "\r")  # characters with which spreadsheets start a formula
COLUMNS = ("trial", *SETTINGS, *SCALE, "state", *METRICS)


def table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as columns to values, sorted by their settings in the order of the columns."""
    return [line(row) for row in sorted(rows, key=_order)]


def line(row: Row) -> dict[str, Any]:
    """Return one row as columns to values; missing values are None."""
    metrics: dict[str, Any] = dict.fromkeys(METRICS)
    if row.result is not None:
        metrics |= metrics_of(row.result)
    return {"trial": row.id, **asdict(row.config), **scale_of(row.config), "state": row.state, **metrics}


def scale_of(config: TrialConfig) -> dict[str, float | None]:
    """Return kappa and the effective rate of a trial; None for networks whose layers have different input sizes."""
    kappa = nominal_kappa(config.method, config.width, config.angle) if config.model == "mlp" else None
    return {"kappa": kappa, "effective_rate": None if kappa is None else config.learning_rate * kappa}


def metrics_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of a stored result; final losses and accuracies are None if the run diverged."""
    if FROM_TABLE in result:
        return {name: math.inf if value == INFINITE else value for name, value in result[FROM_TABLE].items()}
    points, spreads, diverged_at = result["points"], result["spreads"], result["diverged_at"]
    last = points[-1] if diverged_at is None else {}
    return {
        "outcome": "finished" if diverged_at is None else "diverged",
        "diverged_at": diverged_at,
        **{name: last.get(name) for name in ("train_loss", "validation_loss", "validation_accuracy")},
        "test_loss": result["test_loss"],
        "test_accuracy": result["test_accuracy"],
        "best_validation_accuracy": max((point["validation_accuracy"] for point in points), default=None),
        "largest_self_factor_ratio": max(map(_ratio, spreads), default=None),
        "largest_self_factor_variation": max((s["coefficient_of_variation"] for s in spreads), default=None),
        **_own_steps(result.get("own_steps", ())),
    }


def _own_steps(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of the samples' own gradients; None if the samples had no gradient."""
    exact = [one for one in found if one["error"] is not None]
    shares = [one["self_share"] for one in found if one["self_share"] is not None]
    return {
        "largest_identity_error": max((one["error"] for one in exact), default=None),
        "largest_identity_error_float64": max((one["error_float64"] for one in exact), default=None),
        "largest_identity_error_over_bound": max((one["error"] / one["bound"] for one in exact), default=None),
        "smallest_self_share": min(shares, default=None),
        "mean_self_share": fmean(shares) if shares else None,
    }


def _ratio(spread: dict[str, float]) -> float:
    return spread["maximum"] / spread["minimum"] if spread["minimum"] else math.inf


def to_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV with a line of headings, lines ended by a line feed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for values in table(rows):
        writer.writerow({name: written(value) for name, value in values.items()})
    return text.getvalue()


def written(value: Any) -> Any:
    """Return a value as written in a table; text that a spreadsheet would evaluate gets a leading apostrophe."""
    if isinstance(value, float):
        return repr(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_COMPUTED) else value


def unquoted(text: str) -> str:
    """Return the original of a text that was written to a table."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_COMPUTED) else text


def _order(row: Row) -> tuple[Any, ...]:
    settings = asdict(row.config)
    return (*((settings[name] is None, 0 if settings[name] is None else settings[name]) for name in SETTINGS), row.id)
