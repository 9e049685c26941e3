"""Select failed trials to retry: those that match every ``KEY=VALUE`` filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from derive.errors import UsageError
from verify.training.experiment import SETTINGS
from verify.training.store import Row

_OWN: dict[str, Callable[[Row, str], bool]] = {
    "state": lambda row, value: row.state == value,
    "id": lambda row, value: row.id.startswith(value),
    "error": lambda row, value: value in (row.error or ""),
}


def wanted(filters: Sequence[str]) -> Callable[[Row], bool]:
    """Return a predicate that is true for trials that match every filter; without filters, for all trials.

    A filter is ``KEY=VALUE``: a setting with its value as printed, ``state``, the beginning of the ``id``, or a part of
    the ``error``.

    Raises:
        UsageError: an invalid filter.
    """
    tests = [_test(text) for text in filters]
    return lambda row: all(test(row) for test in tests)


def _test(text: str) -> Callable[[Row], bool]:
    key, equals, value = text.partition("=")
    if not equals or key not in (*_OWN, *SETTINGS):
        known = ", ".join((*_OWN, *SETTINGS))
        raise UsageError(f"--retry-where {text!r}: write KEY=VALUE, such as method=none; keys are {known}")
    if key in _OWN:
        return lambda row: _OWN[key](row, value)
    return lambda row: _same(getattr(row.config, key), value)


def _same(setting: object, value: str) -> bool:
    """Return whether a setting has a value given as text; 0.10 equals 0.1."""
    if isinstance(setting, float):
        try:
            return setting == float(value)
        except ValueError:
            return False
    return str(setting) == value
