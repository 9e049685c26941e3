"""Sources of trials to be judged: stores, and tables exported from stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from derive.errors import UsageError, printable
from verify.training.export import table
from verify.training.rates import Trial
from verify.training.store import Store
from verify.training.tables import READABLE, read_table


@dataclass(frozen=True)
class Source:
    """The trials of one experiment.

    ``name`` is unique on a page, ``place`` is the source file, ``text`` the canonical text of the experiment.
    ``courses`` are the stored results by trial, with the measurements during training; tables have none.
    """

    name: str
    place: Path
    trials: Sequence[Trial]
    text: str = ""
    courses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load_sources(tables: Iterable[Path], stores: Iterable[Path]) -> list[Source]:
    """Return the experiments of tables (files or folders) and of stores, each under a unique name.

    Raises:
        UsageError: a table or store cannot be read, or a store has no experiments.
    """
    found = [Source(printable(path.stem), path, read_table(path)) for given in tables for path in _files(given)]
    found += [source for path in stores for source in _of_store(path)]
    seen: Counter[str] = Counter()
    named = []
    for source in found:
        seen[source.name] += 1
        number = seen[source.name]
        named.append(source if number == 1 else replace(source, name=f"{source.name}-{number}"))
    return named


def _files(given: Path) -> list[Path]:
    """Return the given table, or the tables of a folder sorted by name."""
    if not given.is_dir():
        return [given]
    return sorted(path for path in given.iterdir() if path.suffix in READABLE)


def _of_store(path: Path) -> list[Source]:
    with Store(path, read_only=True) as opened:
        opened.check()
        found = []
        for name, (text, _) in opened.experiments().items():
            rows = opened.rows(name)
            courses = {row.id: row.result for row in rows if row.result is not None}
            found.append(Source(printable(name), opened.database, table(rows), text, courses))
    if not found:
        raise UsageError(f"store {str(path)!r} is empty; run an experiment first: affdiv experiment run smoke")
    return found
