"""Names of values and lengths in a kernel, distinct from C++'s keywords and the template's names."""

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
    """Return a name that is free in a kernel: an underscore is added to a taken one."""
    return f"{name}_" if name in _TAKEN else name


def check_distinct(kernel: str, names: Iterable[str]) -> None:
    """Raise ``UsageError`` if two things in a kernel would have the same name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"kernel {kernel}: two of its tensors or sizes would both be called {name!r}; rename one")
        seen.add(name)
