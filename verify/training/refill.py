"""Import the results of an exported table into a store that lacks them.

    table ──▶ finished lines ──▶ those whose ids the experiment has here ──▶ complete stacks ──▶ done in the store

The id of a trial is a digest of everything that its result depends on: a line fits if settings, layers, data, torch and
procedure equal those of the experiment here. A table holds final results only, so an imported trial has no training
curve, and its export is the line that it came from.
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

_NAMED = 5  # rejected lines that are listed individually


@dataclass(frozen=True)
class Refill:
    """The outcome of an import: the imported ids, those already present, and the reasons for rejecting others."""

    taken: tuple[str, ...]
    there: tuple[str, ...]
    refused: Mapping[str, str]

    def text(self, path: Path) -> str:
        """Return a summary, with one line for each of the first rejections."""
        lines = [f"{path}: {len(self.taken)} trials imported, {len(self.there)} were present already"]
        lines[0] += f", {len(self.refused)} refused" if self.refused else ""
        lines += [f"  trial {identity[:12]}: {why}" for identity, why in [*self.refused.items()][:_NAMED]]
        more = len(self.refused) - _NAMED
        return "\n".join([*lines, f"  and {more} more"] if more > 0 else lines)


def refill(store: Store, experiment: str, path: Path) -> Refill:
    """Import the results of a table into an experiment registered in the store.

    Raises:
        UsageError: the file is not an exported table, or none of its lines fits.
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
            refused[identity] = "its line has settings other than the trial with that id; export the table again"
    there = tuple(identity for identity in done if identity in known and known[identity].state == "done")
    fitting = {i: result_of(line) for i, line in done.items() if i not in refused and i not in there}
    taken = store.fill(experiment, fitting)
    refused |= dict.fromkeys(
        (i for i in fitting if i not in taken), "it is running, or seeds that train with it are missing from the table"
    )
    if refused and not taken and not there:
        raise UsageError(Refill((), (), refused).text(path))
    return Refill(tuple(i for i in done if i in taken), there, refused)


def result_of(line: Trial) -> dict[str, Any]:
    """Return the result of a line in the store's form, without a training curve."""
    ends = {name: line[name] for name in ("diverged_at", "test_accuracy", "test_loss")}
    metrics = {name: INFINITE if line[name] == math.inf else line[name] for name in METRICS}
    return {FROM_TABLE: metrics, "points": [], "spreads": [], "own_steps": [], **ends}


def _stranger(same_settings: bool) -> str:
    if same_settings:
        return "its settings match, but its layers, data, torch version, procedure or stack of seeds differ"
    return "it is not a trial of this experiment"
