"""The scaled input ``u = f x`` as a variable of its own, for a row scale f that is a function of the row's length.

Every entry of u is bounded by sqrt(kappa) for every length of x; f and x alone are not bounded. Products such as
``f^2 (x.v) x`` overflow or underflow when ``f (u.v) u`` does not, and dW needs ``u`` anyway. Writing gradients in
terms of u and f is exact, because x = u/f. The pass does so only if no f stays in a denominator, so that the result
also holds in the limit f = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Indexed, Pow

from codegen.ir.program import Contract, Pointwise, Program, Value, name_of
from derive.algebra.nodes import tensor
from derive.algebra.normal import normalise


@dataclass(frozen=True)
class Direction:
    """``value = scale * source``: the name and axes of the scaled input, its scale and its source."""

    value: Value
    scale: Value
    source: Value

    @property
    def definition(self) -> Expr:
        """The scaled entry at the value's own indices."""
        return self._scale_at(self.value.entry) * self.source.entry

    def apply(self, expression: Expr) -> Expr | None:
        """Return the expression in terms of the scaled input; None if a power of the scale stays in a denominator."""
        swap = {e: self._quotient(e) for e in expression.atoms(Indexed) if name_of(e) == self.source.name}
        result = normalise(expression.xreplace(swap))
        return None if self._divided_by(result) else result

    def apply_all(self, expressions: dict[str, Expr]) -> dict[str, Expr] | None:
        """Return every expression in terms of the scaled input; None if that is impossible for one of them."""
        changed = {name: self.apply(e) for name, e in expressions.items()}
        complete = {name: e for name, e in changed.items() if e is not None}
        return complete if len(complete) == len(changed) else None

    def _divided_by(self, expression: Expr) -> bool:
        """Whether the scale, or a sum that contains it, remains in a denominator or under a root."""
        fractions = (p for p in expression.atoms(Pow) if not (p.exp.is_Integer and p.exp > 0))
        return any(name_of(e) == self.scale.name for p in fractions for e in p.base.atoms(Indexed))

    def _quotient(self, entry: Indexed) -> Expr:
        return tensor(self.value.name)[entry.indices] / self._scale_at(entry)

    def _scale_at(self, entry: Indexed) -> Indexed:
        here = dict(zip(self.value.indices, entry.indices, strict=True))
        return self.scale.at(here[i] for i in self.scale.indices)


def find_direction(program: Program, candidates: tuple[str, ...]) -> Direction | None:
    """Return the scaled input if one of ``candidates`` is a function of a sum of squares of one input's rows."""
    for name in candidates:
        squares = squared_length(program, name)
        if squares is None:
            continue
        source = program.values[name_of(squares.operands[0])]
        free = [n for n in ("u", "direction", "scaled_input") if n not in program.values]
        here = dict(zip(squares.operands[0].indices, source.indices, strict=True))
        scale = program.values[name]
        moved = Value(name, tuple(here[i] for i in scale.indices))
        return Direction(Value(free[0], source.indices), moved, source)
    return None


def squared_length(program: Program, name: str) -> Contract | None:
    """Return the contraction ``E = sum x**2`` of an input if the named value is a function of E alone, else None."""
    producer = program.producers.get(name)
    if not isinstance(producer, Pointwise) or len(producer.reads) != 1:
        return None
    source = program.producers.get(name_of(producer.reads[0]))
    if not isinstance(source, Contract) or len(source.operands) != 2 or source.operands[0] != source.operands[1]:
        return None
    is_input = any(v.name == name_of(source.operands[0]) for v in program.inputs)
    return source if is_input and producer.reads[0].indices == source.target.indices else None
