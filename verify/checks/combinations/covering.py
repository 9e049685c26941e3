"""Covering arrays: few rows of settings that contain every pair (or triple) of levels of different factors.

A row gives each factor one of its levels. Rules exclude meaningless combinations, which need not be covered. The greedy
search is deterministic: the same factors give the same rows. Why not a package: the existing one has had no release
since 2023 and cannot check rules on a partial row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

Row = dict[str, Any]
Choice = tuple[str, Hashable]


@dataclass(frozen=True)
class Rule:
    """A condition on the levels of the factors ``names``, passed in that order."""

    names: tuple[str, ...]
    holds: Callable[..., bool]

    def allows(self, row: Mapping[str, Any]) -> bool:
        """Return whether a complete or partial row satisfies the rule; missing factors cannot violate it."""
        return any(name not in row for name in self.names) or self.holds(*(row[name] for name in self.names))


def only(name: str, level: Hashable, **allowed: tuple[Hashable, ...]) -> tuple[Rule, ...]:
    """Return rules that restrict other factors to ``allowed`` levels when factor ``name`` has ``level``."""

    def rule(other: str, levels: tuple[Hashable, ...]) -> Rule:
        return Rule((name, other), lambda chosen, found: chosen != level or found in levels)

    return tuple(rule(other, levels) for other, levels in allowed.items())


def covering_rows(
    factors: Mapping[str, Sequence[Hashable]], rules: Sequence[Rule] = (), groups: Iterable[Sequence[str]] | int = 2
) -> list[Row]:
    """Return rows that contain every possible combination of levels of each group of factors.

    If ``groups`` is a number, all groups of that many factors are covered. A combination is possible if a row that
    satisfies all rules contains it.
    """
    names = tuple(sorted(factors, key=lambda name: -len(factors[name])))
    chosen = list(combinations(names, min(groups, len(names)))) if isinstance(groups, int) else [*map(tuple, groups)]
    return _Search(names, dict(factors), tuple(rules), chosen).rows()


@dataclass
class _Search:
    """The search for rows: the combinations not covered yet, and how often each level was chosen."""

    names: tuple[str, ...]
    factors: dict[str, Sequence[Hashable]]
    rules: tuple[Rule, ...]
    groups: list[tuple[str, ...]]

    def rows(self) -> list[Row]:
        """Return the rows; combinations that no row can contain are left out."""
        self.used: Counter[Choice] = Counter()
        self.open = dict.fromkeys(self._wanted())
        found = []
        while self.open:
            first = next(iter(self.open))
            row = self._completed(dict(first))
            if row is None:
                del self.open[first]
                continue
            found.append({name: row[name] for name in self.factors})
            self.used.update(row.items())
            for group in self.groups:
                self.open.pop(frozenset((name, row[name]) for name in group), None)
        return found

    def _wanted(self) -> Iterator[frozenset[Choice]]:
        for group in self.groups:
            for levels in product(*(self.factors[name] for name in group)):
                pairs = tuple(zip(group, levels, strict=True))
                if all(rule.allows(dict(pairs)) for rule in self.rules):
                    yield frozenset(pairs)

    def _completed(self, row: Row) -> Row | None:
        """Return the row completed to all factors, preferring levels that cover most; None if the rules allow none."""
        name = next((name for name in self.names if name not in row), None)
        if name is None:
            return row
        known = [
            [(other, row[other]) for other in group if other != name]
            for group in self.groups
            if name in group and all(other in row or other == name for other in group)
        ]
        rules = [rule for rule in self.rules if name in rule.names]
        for level in sorted(self.factors[name], key=lambda level: self._rank(known, (name, level))):
            extended = {**row, name: level}
            if all(rule.allows(extended) for rule in rules):
                whole = self._completed(extended)
                if whole is not None:
                    return whole
        return None

    def _rank(self, known: Sequence[Sequence[Choice]], choice: Choice) -> tuple[int, int]:
        """Return the sort key of a level: most newly covered combinations first, then least used."""
        covered = sum(frozenset((*others, choice)) in self.open for others in known)
        return -covered, self.used[choice]


def described(row: Mapping[str, Any]) -> str:
    """Return a row in words, for reports of failures."""
    return ", ".join(f"{name} {'automatic' if level is None else level}" for name, level in row.items())
