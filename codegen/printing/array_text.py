"""What printers for array libraries share: einsum equations, guards, positions, and axes aligned for broadcasting.

The printer says how its library permutes the axes of a tensor, and how it writes the indices along one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import ascii_letters
from typing import Any

import sympy
from sympy import Expr, Indexed, KroneckerDelta

from codegen.ir.program import Contract, Mask
from codegen.lower.gather_layout import indices_of
from codegen.printing.expressions import ExpressionPrinter
from derive.algebra.index import Index
from derive.algebra.nodes import AtMost, Divides, Within

_LETTERS = "jklabcdefhimnopqrtuvwxyz" + ascii_letters


def einsum_equation(instruction: Contract) -> str:
    """Return a contraction's einsum equation, with each index's own name if it is one free letter: ``sj,ij->si``."""
    letters: dict[Index, str] = {}
    indices = dict.fromkeys(i for e in (*instruction.operands, instruction.target.entry) for i in e.indices)
    for index in sorted(indices, key=lambda i: i.tag != 0):
        wanted = [index.name] if len(index.name) == 1 and index.name in ascii_letters else []
        letters[index] = next(letter for letter in (*wanted, *_LETTERS) if letter not in letters.values())
    inside = ",".join("".join(letters[i] for i in o.indices) for o in instruction.operands)
    return f"{inside}->{''.join(letters[i] for i in instruction.target.indices)}"


def bare_indices(expression: Expr) -> list[Index]:
    """Return the indices in an index expression that are not inside an integer entry."""
    if isinstance(expression, Index):
        return [expression]
    if isinstance(expression, Indexed):
        return []
    return [i for a in expression.args for i in bare_indices(a)]


def mask_text(instruction: Mask, position: Callable[[Expr], str], samples: str) -> str:
    """Return the condition of a mask; ``samples`` is their number, for a condition that is the same for all."""
    tests = [_guard_text(guard, position) for guard in instruction.guards]
    if not indices_of(instruction.guards):
        tests.append(f"{samples} >= 0")
    return tests[0] if len(tests) == 1 else " & ".join(f"({test})" for test in tests)


def _guard_text(guard: Expr, position: Callable[[Expr], str]) -> str:
    first, second = guard.args
    if isinstance(guard, KroneckerDelta):
        scale = sympy.denom(sympy.together(first)) * sympy.denom(sympy.together(second))
        return " == ".join(position(sympy.expand(a * scale)) for a in (first, second))
    if isinstance(guard, Divides):
        return f"({position(second)}) % {position(first)} == 0"
    if isinstance(guard, AtMost):
        return f"{position(first)} <= {position(second)}"
    assert isinstance(guard, Within)
    return f"within({position(first)}, {position(second)})"


def position_text(position: Expr, entry: Callable[[Indexed], str], names: Mapping[Any, str]) -> str:
    """Return the text of an index expression; ``names`` gives the text of sizes and indices."""
    above, below = sympy.fraction(sympy.together(position))
    printer = ExpressionPrinter(entry, names)
    if below == 1:
        return printer.text(position)
    return f"quotient({printer.text(sympy.expand(above))}, {printer.text(below)})"


def axes_in_place(
    name: str,
    own: tuple[Index, ...],
    target: tuple[Index, ...],
    permuted: Callable[[str, tuple[int, ...]], str],
    full: bool = False,
) -> str:
    """Return the text of a tensor with its axes aligned to the target's; with ``full``, missing leading axes too."""
    sorted_own = tuple(i for i in target if i in own)
    name = permuted(name, tuple(own.index(i) for i in sorted_own))
    first = 0 if full or not sorted_own else target.index(sorted_own[0])
    places = [":" if i in own else "None" for i in target[first:]]
    return name if all(p == ":" for p in places) else f"{name}[{', '.join(places)}]"
