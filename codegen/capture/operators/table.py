"""The table of operators: a rule for each name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
"""The rule of each operator by its ATen name, such as ``aten.linear``."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the named operators (without ``aten.``)."""

    def enter(function: Rule) -> Rule:
        """Register the rule."""
        for name in names:
            assert name not in RULES
            RULES[f"aten.{name}"] = function
        return function

    return enter


def covered() -> Mapping[str, str]:
    """Return the first line of each rule's docstring by the operator's name."""
    return {name: (RULES[name].__doc__ or "").splitlines()[0] for name in sorted(RULES)}
