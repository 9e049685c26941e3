"""Marks for long lists of parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(count: int, values: Iterable[Any]) -> list[Any]:
    """Parameters of which one in ``count`` is fast, the first among them; the others are ``slow``.

    For lists in which each value takes a while and most go through the same code. A tuple is the values of several
    arguments; as the value of one, wrap it in ``pytest.param``.
    """
    return [v if k % count == 0 else _slow(v) for k, v in enumerate(values)]


def _slow(value: Any) -> Any:
    """A parameter, or values that already are one (of ``pytest.param``), with the mark ``slow``."""
    if hasattr(value, "marks"):
        return pytest.param(*value.values, id=value.id, marks=[*value.marks, pytest.mark.slow])
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.slow)
