"""Names in a kernel: those of values and lengths, kept apart from C++'s words and the template's own."""

from __future__ import annotations

from collections.abc import Iterable

from derive.errors import UsageError

_OWN = """
    Element Wide Offset V row rows start k column chunk partial total sum first last
    threads sums far
    Rounded Axis Box Spread count groups places channels own inside position block place image group second third
"""
_LANGUAGE = """
    alignas alignof and asm auto bool break case catch char class const constexpr continue default delete do double else
    enum explicit export extern false float for friend goto if inline int long mutable namespace new not operator or
    private protected public register return short signed sizeof static struct switch template this throw true try
    typedef typename union unsigned using virtual void volatile while xor
"""
_FUNCTIONS = """
    exp log sin cos tan asin acos atan sinh cosh tanh erf sqrt pow sign heaviside fabs fmax fmin y0 y1 yn j0 j1 jn
    load store widen narrow infinity magnitude far_unit unit_of row_sum row_largest column_sum
    quotient lane_sum over_patch channels_at put_channels
"""
_TAKEN = frozenset(f"{_OWN} {_LANGUAGE} {_FUNCTIONS}".split())


def identifier(name: str) -> str:
    """Return a name that is free in a kernel: a taken one gets an underscore."""
    return f"{name}_" if name in _TAKEN else name


def check_distinct(kernel: str, names: Iterable[str]) -> None:
    """Raise ``UsageError`` where two things in a kernel would have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"kernel {kernel}: two things would be called {name!r}; rename a tensor or a size")
        seen.add(name)
