"""Programs as lines of JAX.

A value has its axes in the order of its indices and nothing else: ``f`` (B) beside ``z`` (B, m) is ``f[:, None]``.
Contractions are ``jnp.einsum``; gathers are ``take`` and scatters ``put``, at positions computed from ``jnp.arange``.
Values that are wide, and arithmetic that float32 could not hold (``codegen.passes.accumulation``), are the numbers of
any size of ``runtime/wide.py``; all else is computed in at least float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sympy
from sympy import Expr, Indexed, Pow, Symbol

from codegen.ir.program import (
    Contract,
    Gather,
    Instruction,
    Mask,
    Peak,
    Pointwise,
    Program,
    Scatter,
    entries,
    name_of,
)
from codegen.lower.gather_layout import placement_of
from codegen.passes.accumulation import FLAT, Types
from codegen.printing.array_text import axes_in_place, bare_indices, einsum_equation, mask_text, position_text
from codegen.printing.expressions import ExpressionPrinter
from derive.algebra.index import Index
from derive.errors import UsageError
from derive.forward_map import BATCH

_CODE = (
    "Any Array dtype forward given gradients jax jnp kept math output partial put quotient take tangent tangents wide"
)
WORDS = frozenset([*_CODE.split(), "with_gradients", "with_tangents", "within"])
"""What printed lines and the code around them call so: no value may."""
_FUNCTIONS = {
    **{name: f"jnp.{name}" for name in ("exp", "log", "tanh", "sin", "cos", "sign")},
    "atan": "jnp.arctan",
    "erf": "jax.lax.erf",
    "sigmoid": "jax.lax.logistic",
}


class JaxPrinter:
    """Prints one program.

    Args:
        program: the program.
        sizes: how axis lengths and offsets are written.
        types: which values are wide.
        own: the inputs that have the type of the layer's tensors, exactly.
        tangents: the inputs that are tangents: what is done with them must be linear.
    """

    def __init__(
        self,
        program: Program,
        sizes: Mapping[Symbol, str],
        types: Types,
        own: Iterable[str],
        tangents: Iterable[str] = (),
    ) -> None:
        taken = sorted(WORDS & {*program.values, *sizes.values()})
        if taken:
            raise UsageError(
                f"the jax target cannot print {program.name!r}: its code calls something else {taken[0]!r}; "
                "give the tensor or size another name"
            )
        self._program, self._own = program, frozenset(own)
        self._wide, self._computed_wide = set(types.wide), set(types.computed_wide)
        self._linear = set(tangents)
        for instruction in program.instructions:
            name = instruction.target.name
            if any(name_of(e) in self._linear for e in instruction.reads):
                self._linear.add(name)
                if types.degrees[name] != FLAT:  # what JAX transposes grows as fast, the other way
                    self._computed_wide.add(name)
                    self._wide |= {name} - set(program.outputs)
        batched = next((v.name for v in program.inputs if BATCH in v.indices), "")
        self._sizes = {**sizes, BATCH.size: f"{batched}.shape[0]"}

    def lines(self) -> list[str]:
        """Return the lines that assign every value, in order; each names the equation that it implements."""
        found = []
        for instruction in self._program.instructions:
            note = f"  # {instruction.equation}" if instruction.equation else ""
            found.append(f"{instruction.target.name} = {self._text(instruction)}{note}")
        return found

    def _text(self, instruction: Instruction) -> str:
        match instruction:
            case Contract():
                text = self._contraction(instruction)
            case Pointwise():
                text = self._pointwise(instruction)
            case Gather():
                text = self._gather(instruction)
            case Scatter():
                text = self._scatter(instruction)
            case Peak():
                return self._peak(instruction)
            case Mask():
                return self._mask(instruction)
            case _:
                kind = type(instruction).__name__.lower()
                raise UsageError(f"the jax target cannot print {instruction.target.name!r}, a {kind}")
        name = instruction.target.name
        narrows = name in self._computed_wide and name not in self._wide
        return f"wide.narrow({text})" if narrows else text

    def _contraction(self, instruction: Contract) -> str:
        equation = f'"{einsum_equation(instruction)}"'
        names = [name_of(o) for o in instruction.operands]
        if instruction.target.name in self._computed_wide:
            marked = [self._widened(n) if n in self._linear else n for n in names]
            return f"wide.contract({equation}, {', '.join(marked)})"
        operands = [f"wide.narrow({n})" if n in self._wide else n for n in names]
        if len(names) == 2 and self._own >= set(names):
            return f"wide.product({equation}, {', '.join(operands)}, dtype)"
        return f"jnp.einsum({equation}, {', '.join(operands)})"

    def _peak(self, instruction: Peak) -> str:
        axes, name = tuple(instruction.operand.indices), name_of(instruction.operand)
        operand = f"wide.narrow({name})" if name in self._wide else name
        along = ", ".join(str(k) for k, i in enumerate(axes) if i in instruction.summed)
        left = tuple(i for i in axes if i not in instruction.summed)
        order = tuple(left.index(i) for i in instruction.target.indices)
        text = _permuted(f"jnp.max({operand}, ({along},))", order)
        return f"wide.of({text})" if instruction.target.name in self._wide else text

    def _pointwise(self, instruction: Pointwise) -> str:
        target, expression = instruction.target.indices, instruction.expression
        covered = {i for e in entries(expression) for i in e.indices}
        computed_wide = instruction.target.name in self._computed_wide

        def entry(found: Indexed) -> str:
            """Return a tensor so that it broadcasts: wide where the arithmetic is, narrow where it is not."""
            name = name_of(found)
            if computed_wide:
                name = self._widened(name)
            elif name in self._wide:
                name = f"wide.narrow({name})"
            return _spread(name, tuple(found.indices), target, not set(target) <= covered)

        text = JaxExpressions(entry, self._sizes).text(expression)
        if set(target) <= covered:
            return text
        shape = f"({', '.join(self._size(i.size) for i in target)}{',' * (len(target) == 1)})"
        return f"wide.spread({text}, {shape})" if covered else f"jnp.full({shape}, {text}, wide.type_of(dtype))"

    def _widened(self, name: str) -> str:
        if name in self._wide:
            return name
        return f"wide.{'linear' if name in self._linear else 'of'}({name})"

    def _gather(self, instruction: Gather) -> str:
        found = placement_of(instruction)
        source = _permuted(name_of(instruction.operand), found.order)
        positions = ", ".join(self._positions(found.positions, found.grid or (BATCH,), found.spread))
        return f"take({source}, {found.start}, {positions}{'' if instruction.filled else ', filled=False'})"

    def _scatter(self, instruction: Scatter) -> str:
        found = placement_of(instruction)
        own = instruction.target.indices
        values = _spread(name_of(instruction.operand), tuple(instruction.operand.indices), found.indices, True)
        read = found.order[found.start : found.start + len(found.positions)]
        lengths = ", ".join(self._size(own[k].size) for k in read)
        positions = ", ".join(self._positions(found.positions, found.grid or (BATCH,), found.spread))
        text = f"put({values}, {found.start}, ({lengths}{',' * (len(read) == 1)}), {positions})"
        return _permuted(text, tuple(found.order.index(k) for k in range(len(own))))

    def _mask(self, instruction: Mask) -> str:
        target = instruction.target.indices
        text = mask_text(instruction, lambda e: self._position(e, target), self._count(BATCH.size))
        return f"({text}).astype(wide.type_of(dtype))"

    def _positions(self, positions: Sequence[Expr], grid: tuple[Index, ...], spread: bool) -> list[str]:
        """Return the text of each position, over the axes of the grid."""
        texts = [self._position(p, grid) for p in positions]
        return [f"0 * {self._count(BATCH.size)} + {text}" for text in texts] if spread else texts

    def _position(self, position: Expr, layout: tuple[Index, ...]) -> str:
        here = {i: _spread(self._count(i.size), (i,), layout) for i in bare_indices(position)}
        return position_text(position, lambda e: _spread(name_of(e), tuple(e.indices), layout), {**self._sizes, **here})

    def _count(self, size: Expr) -> str:
        return f"jnp.arange({self._size(size)})"

    def _size(self, size: Expr) -> str:
        return ExpressionPrinter(str, self._sizes).text(size)


class JaxExpressions(ExpressionPrinter):
    """Expressions in JAX: functions of ``wide`` where numbers may be of any size, else those of ``jax.numpy``."""

    def _print(self, expression: Expr) -> tuple[str, int]:
        if isinstance(expression, sympy.Heaviside):
            argument = self.text(expression.args[0])
            return f"((jnp.sign(wide.narrow({argument})) + 1) / 2)", _ATOM
        return super()._print(expression)

    def _power(self, expression: Pow) -> tuple[str, int]:
        """Rational powers by ``wide``; any other is one of ``jax.numpy``."""
        base, exponent = expression.base, expression.exp
        if not expression.has(Indexed):
            return super()._power(expression)
        if exponent == sympy.Rational(1, 2):
            return f"wide.sqrt({self.text(base)})", _ATOM
        if exponent.is_Rational:
            if exponent == -1:
                return super()._power(expression)
            below = "" if exponent.q == 1 else f", {exponent.q}"
            return f"wide.power({self.text(base)}, {exponent.p}{below})", _ATOM
        return f"wide.narrow({self.text(base)}) ** {self.text(exponent, _ATOM)}", _PRODUCT

    def _function(self, expression: Expr) -> str:
        name = type(expression).__name__
        if not expression.has(Indexed):
            return super()._function(expression)
        if isinstance(expression, sympy.Piecewise):
            (value, condition), (otherwise, _) = expression.args
            agree = f"wide.equal({self.text(condition.lhs)}, {self.text(condition.rhs)})"
            return f"wide.where({agree}, {self.text(value)}, {self.text(otherwise)})"
        inside = [self.text(a) for a in sorted(expression.args, key=lambda a: (not a.has(Indexed), str(a)))]
        if isinstance(expression, sympy.Abs):
            return f"wide.absolute({inside[0]})"
        if isinstance(expression, sympy.Max | sympy.Min):
            text = inside[0]
            for other in inside[1:]:
                text = f"wide.{name.lower()}imum({text}, {other})"
            return text
        if name == "Stopped":
            return f"jax.lax.stop_gradient({inside[0]})"
        if name in _FUNCTIONS and len(inside) == 1:
            return f"{_FUNCTIONS[name]}(wide.narrow({inside[0]}))"
        raise UsageError(
            f"the jax target cannot print {name} in {expression}; write it with the functions of the formula language"
        )


_PRODUCT, _ATOM = 1, 4  # how tightly text binds, as in ``printing.expressions``


def _spread(name: str, own: tuple[Index, ...], target: tuple[Index, ...], full: bool = False) -> str:
    return axes_in_place(name, own, target, _permuted, full)


def _permuted(name: str, order: tuple[int, ...]) -> str:
    return name if order == tuple(range(len(order))) else f"{name}.transpose({', '.join(map(str, order))})"
