"""Results of an exported table, put back into a store that has lost them or never had them.

    table ──▶ lines that are done ──▶ those whose ids the experiment has here ──▶ whole teams ──▶ done in the store

The id of a trial is a digest of everything that its result depends on: a line fits where settings, layers, data, torch
and procedure are those of the experiment here. A table says what came out, not what happened on the way: of a trial
that is put back there is no course to draw, and its export is the line that it came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derive.errors import UsageError
from verify.training.config import TrialConfig
from verify.training.experiment import SETTINGS
from verify.training.export import FROM_TABLE, INFINITE, METRICS
from verify.training.rates import Trial
from verify.training.store import Store
from verify.training.tables import read_table

_NAMED = 5  # refused lines that are told one by one


@dataclass(frozen=True)
class Refill:
    """What became of a table's lines: the ids that were put back, those that were there, and why others were not."""

    taken: tuple[str, ...]
    there: tuple[str, ...]
    refused: Mapping[str, str]

    def text(self, path: Path) -> str:
        """Return what is said of it, a line for each of the first refusals."""
        lines = [f"{path}: {len(self.taken)} trials put back, {len(self.there)} were there already"]
        lines[0] += f", {len(self.refused)} refused" if self.refused else ""
        lines += [f"  trial {identity[:12]}: {why}" for identity, why in [*self.refused.items()][:_NAMED]]
        more = len(self.refused) - _NAMED
        return "\n".join([*lines, f"  and {more} more"] if more > 0 else lines)


def refill(store: Store, experiment: str, path: Path) -> Refill:
    """Put the results of a table into an experiment that is registered in the store.

    Raises:
        UsageError: a file that is no exported table, or one of which no line fits.
    """
    done = {line["trial"]: line for line in read_table(path) if line["outcome"] is not None}
    known = {row.id: row for row in store.rows(experiment)}
    settings = {row.config for row in known.values()}
    refused = {}
    for identity, line in done.items():
        config = TrialConfig(**{name: line[name] for name in SETTINGS})
        if identity not in known:
            refused[identity] = _stranger(config in settings)
        elif known[identity].config != config:
            refused[identity] = "its line has other settings than the trial of that id; export the table again"
    there = tuple(identity for identity in done if identity in known and known[identity].state == "done")
    fitting = {i: result_of(line) for i, line in done.items() if i not in refused and i not in there}
    taken = store.fill(experiment, fitting)
    refused |= dict.fromkeys(
        (i for i in fitting if i not in taken), "it is at work, or seeds that train with it are not in the table"
    )
    if refused and not taken and not there:
        raise UsageError(Refill((), (), refused).text(path))
    return Refill(tuple(i for i in done if i in taken), there, refused)


def result_of(line: Trial) -> dict[str, Any]:
    """Return the result of a line as a store keeps it: what came out, without a course."""
    ends = {name: line[name] for name in ("diverged_at", "test_accuracy", "test_loss")}
    metrics = {name: INFINITE if line[name] == math.inf else line[name] for name in METRICS}
    return {FROM_TABLE: metrics, "points": [], "spreads": [], "own_steps": [], **ends}


def _stranger(same_settings: bool) -> str:
    if same_settings:
        return "its settings are asked for, but layers, data, torch, procedure or stack of seeds were other ones"
    return "it is no trial of this experiment"
