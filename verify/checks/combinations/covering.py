"""Covering arrays: few rows of settings in which every pair of levels of two factors, or every triple, occurs.

A row gives each factor one of its levels. Rules forbid combinations that have no meaning; what they rule out is not
asked for. Rows are found greedily and without chance: the same factors give the same rows. Ours rather than a package:
what there is has had no release since 2023 and knows no rules for a part of a row, and this takes fewer lines than a
dependency takes words.
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
    """What must hold of the levels of some factors, in the order of their names."""

    names: tuple[str, ...]
    holds: Callable[..., bool]

    def allows(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row, or what is chosen of it so far, does not break the rule."""
        return any(name not in row for name in self.names) or self.holds(*(row[name] for name in self.names))


def only(name: str, level: Hashable, **allowed: tuple[Hashable, ...]) -> tuple[Rule, ...]:
    """Return the rules that with one level of a factor go only some levels of others."""

    def rule(other: str, levels: tuple[Hashable, ...]) -> Rule:
        return Rule((name, other), lambda chosen, found: chosen != level or found in levels)

    return tuple(rule(other, levels) for other, levels in allowed.items())


def covering_rows(
    factors: Mapping[str, Sequence[Hashable]], rules: Sequence[Rule] = (), groups: Iterable[Sequence[str]] | int = 2
) -> list[Row]:
    """Return rows in which every possible combination of levels of each group of factors occurs.

    ``groups`` is a number for all groups of so many factors. A combination is possible if some row that breaks no rule
    holds it.
    """
    names = tuple(sorted(factors, key=lambda name: -len(factors[name])))
    chosen = list(combinations(names, min(groups, len(names)))) if isinstance(groups, int) else [*map(tuple, groups)]
    return _Search(names, dict(factors), tuple(rules), chosen).rows()


@dataclass
class _Search:
    """The search for rows: what is not covered yet, and how often each level was chosen."""

    names: tuple[str, ...]
    factors: dict[str, Sequence[Hashable]]
    rules: tuple[Rule, ...]
    groups: list[tuple[str, ...]]

    def rows(self) -> list[Row]:
        """Return the rows; what no row can hold is left out."""
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
        """Return the row with a level for each factor, those first that cover most; None if the rules allow none."""
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
        """Return what makes a level a better choice than others, the lowest first: what it covers, how rare it was."""
        covered = sum(frozenset((*others, choice)) in self.open for others in known)
        return -covered, self.used[choice]


def described(row: Mapping[str, Any]) -> str:
    """Return a row in words, for the report of what failed."""
    return ", ".join(f"{name} {'chosen by itself' if level is None else level}" for name, level in row.items())
