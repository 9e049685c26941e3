"""Programs as lines of JAX.

A value has exactly the axes of its indices, in order: ``f`` (B) times ``z`` (B, m) is ``f[:, None] * z``. Contractions
are ``jnp.einsum``; gathers are ``take`` and scatters ``put``, at positions computed from ``jnp.arange``. Wide values,
and arithmetic that could leave the range of float32 (``codegen.passes.accumulation``), use the numbers of any size of
``runtime/wide.py``; everything else is computed in at least float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sympy
from sympy import Add, Expr, Indexed, Mul, Pow, Symbol, preorder_traversal

from codegen.ir.program import (
    Contract,
    Convolve,
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
from codegen.passes.accumulation import FLAT, Types, degree_of
from codegen.printing.array_text import axes_in_place, bare_indices, einsum_equation, mask_text, position_text
from codegen.printing.expressions import ExpressionPrinter
from derive.algebra.index import Index
from derive.errors import UsageError
from derive.forward_map import BATCH

_CODE = (
    "Any Array dtype forward given gradients jax jnp kept math output partial put quotient take tangent tangents wide"
)
WORDS = frozenset([*_CODE.split(), "with_gradients", "with_tangents", "within"])
"""Names that printed lines and the code around them use, so that no value may have them."""
_FUNCTIONS = {
    **{name: f"jnp.{name}" for name in ("exp", "log", "tanh", "sin", "cos", "sign")},
    "atan": "jnp.arctan",
    "erf": "jax.lax.erf",
    "sigmoid": "jax.lax.logistic",
}


class JaxPrinter:
    """Prints one program.

    Values that grow with the inputs are wide, and so is all arithmetic with them. So a sum of entries near the end of
    float32's range does not overflow, nor does a product with a scale below its smallest number underflow.

    Args:
        program: the program.
        sizes: the text of axis lengths and offsets.
        types: the degrees of values, which say how they grow.
        own: the inputs that have exactly the type of the layer's tensors.
        tangents: the inputs that are tangents; operations on them must be linear.
        kept: the wide inputs, which another program has computed.
        result: the output that has the type of the layer's tensors; by default all outputs.
    """

    def __init__(
        self,
        program: Program,
        sizes: Mapping[Symbol, str],
        types: Types,
        own: Iterable[str],
        tangents: Iterable[str] = (),
        kept: Iterable[str] = (),
        result: str = "",
    ) -> None:
        taken = sorted(WORDS & {*program.values, *sizes.values()})
        if taken:
            raise UsageError(
                f"the jax target cannot print {program.name!r}: its code already uses the name {taken[0]!r}; "
                "give the tensor or size another name"
            )
        self._program, self._own = program, frozenset(own)
        self._degrees = types.degrees
        self.wide, self._computed_wide = set(kept) & {v.name for v in program.inputs}, set[str]()
        self._linear = set(tangents)
        narrow = {result} if result else set(program.outputs)
        for instruction in program.instructions:
            name = instruction.target.name
            if any(name_of(e) in self._linear for e in instruction.reads):
                self._linear.add(name)
            if self._is_wide(instruction):
                self._computed_wide.add(name)
                self.wide |= {name} - narrow
        batched = next((v.name for v in program.inputs if BATCH in v.indices), "")
        self._sizes = {**sizes, BATCH.size: f"{batched}.shape[0]"}

    def _is_wide(self, instruction: Instruction) -> bool:
        """Whether an instruction computes with wide numbers."""
        if any(name_of(e) in self.wide for e in instruction.reads):
            return True
        if isinstance(instruction, Pointwise):
            parts = [p for p in preorder_traversal(instruction.expression) if isinstance(p, Mul | Pow | Add)]
            return any(degree_of(p, self._degrees) != FLAT for p in parts)
        return isinstance(instruction, Contract | Convolve) and any(map(self._grows, instruction.operands))

    def _grows(self, entry: Indexed) -> bool:
        """Whether an entry grows with the inputs."""
        return self._degrees.get(name_of(entry), FLAT) != FLAT or name_of(entry) in self.wide

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
            case Convolve():
                text = self._convolution(instruction)
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
        narrows = name in self._computed_wide and name not in self.wide
        return f"wide.narrow({text})" if narrows else text

    def _contraction(self, instruction: Contract) -> str:
        equation = einsum_equation(instruction)
        operands, names = instruction.operands, [name_of(o) for o in instruction.operands]
        in_type = len(names) == 2 and self._own >= set(names)
        if instruction.target.name in self._computed_wide:
            marked = [self._operand(o) for o in operands]
            options = ", dtype=dtype" if in_type else ""
            along_samples = len(operands) == 2 and all(BATCH in o.indices and self._grows(o) for o in operands)
            if BATCH in instruction.summed and along_samples:
                options += f', samples="{equation[list(operands[0].indices).index(BATCH)]}"'
            return f'wide.contract("{equation}", {", ".join(marked)}{options})'
        if in_type:
            return f'wide.product("{equation}", {", ".join(names)}, dtype)'
        return f'jnp.einsum("{equation}", {", ".join(names)})'

    def _convolution(self, instruction: Convolve) -> str:
        raise UsageError(
            f"the jax target cannot print {instruction.target.name!r}, a convolution among gathered values"
        )

    def _operand(self, entry: Indexed) -> str:
        """Return a factor of a wide sum: a wide number if it grows or is a tangent, else the array."""
        name = name_of(entry)
        return self._widened(name) if self._grows(entry) or name in self._linear else name

    def _peak(self, instruction: Peak) -> str:
        axes, name = tuple(instruction.operand.indices), name_of(instruction.operand)
        operand = f"wide.narrow({name})" if name in self.wide else name
        along = ", ".join(str(k) for k, i in enumerate(axes) if i in instruction.summed)
        left = tuple(i for i in axes if i not in instruction.summed)
        order = tuple(left.index(i) for i in instruction.target.indices)
        text = _permuted(f"jnp.max({operand}, ({along},))", order)
        return f"wide.of({text})" if instruction.target.name in self.wide else text

    def _pointwise(self, instruction: Pointwise) -> str:
        target, expression = instruction.target.indices, instruction.expression
        covered = {i for e in entries(expression) for i in e.indices}
        computed_wide = instruction.target.name in self._computed_wide

        def entry(found: Indexed) -> str:
            """Return a tensor shaped to broadcast, wide if and only if the arithmetic is wide."""
            name = name_of(found)
            if computed_wide:
                name = self._widened(name)
            elif name in self.wide:
                name = f"wide.narrow({name})"
            return _spread(name, tuple(found.indices), target, not set(target) <= covered)

        text = JaxExpressions(entry, self._sizes).text(expression)
        if set(target) <= covered:
            return text
        shape = f"({', '.join(self._size(i.size) for i in target)}{',' * (len(target) == 1)})"
        return f"wide.spread({text}, {shape})" if covered else f"jnp.full({shape}, {text}, wide.type_of(dtype))"

    def _widened(self, name: str) -> str:
        if name in self.wide:
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
    """Expressions in JAX: functions of ``wide`` for wide numbers, else those of ``jax.numpy``."""

    def _print(self, expression: Expr) -> tuple[str, int]:
        if isinstance(expression, sympy.Heaviside):
            argument = self.text(expression.args[0])
            return f"((jnp.sign(wide.narrow({argument})) + 1) / 2)", _ATOM
        return super()._print(expression)

    def _power(self, expression: Pow) -> tuple[str, int]:
        """Rational powers by ``wide``, any other by ``jax.numpy``."""
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


_PRODUCT, _ATOM = 1, 4  # precedences, as in ``printing.expressions``


def _spread(name: str, own: tuple[Index, ...], target: tuple[Index, ...], full: bool = False) -> str:
    return axes_in_place(name, own, target, _permuted, full)


def _permuted(name: str, order: tuple[int, ...]) -> str:
    return name if order == tuple(range(len(order))) else f"{name}.transpose({', '.join(map(str, order))})"
