"""Programs of any layer as lines of differentiable PyTorch; no tensor is overwritten.

A value has exactly the axes of its indices, in order: ``f`` (B) times ``z`` (B, m) is ``f[:, None] * z``. Contractions
are matrix products or ``einsum``. Gathers are plain indexing if positions are always inside, else ``take``; scatters
are ``put``. Positions are computed from ``torch.arange``. Wide values are float64, and so is arithmetic that could
leave the range of the input's type (``codegen.passes.accumulation``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import sympy
from sympy import Expr, Indexed, Symbol

from codegen.ir.program import (
    Contract,
    Convolve,
    Gather,
    Instruction,
    Magnitude,
    Mask,
    Peak,
    Pointwise,
    Program,
    Scatter,
    entries,
    name_of,
)
from codegen.lower.gather_layout import Placement, indices_of, placement_of
from codegen.passes.accumulation import Types, degree_of, in_range
from codegen.printing.array_text import axes_in_place, bare_indices, einsum_equation, mask_text, position_text
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.torch_lines import Line
from derive.algebra.index import Index, always_within
from derive.errors import UsageError
from derive.forward_map import BATCH


class LayerPrinter:
    """Prints one program; ``sizes`` gives the text of axis lengths and offsets, ``like`` names a real tensor."""

    def __init__(self, program: Program, like: str, sizes: Mapping[Symbol, str], types: Types) -> None:
        self._program = program
        self._types = types
        self._like = like
        batched = next((v.name for v in program.inputs if BATCH in v.indices), like)
        self._sizes = {**sizes, BATCH.size: f"{batched}.shape[0]"}
        self._counters: dict[Expr, str] = {}
        self._taken = set(program.values) | set(sizes.values())

    def separate(self) -> LayerPrinter:
        """Return a printer that reuses the index ranges printed so far, without adding its own to them."""
        other = LayerPrinter(self._program, self._like, self._sizes, self._types)
        other._counters, other._taken = dict(self._counters), set(self._taken)
        return other

    def lines(self, names: Iterable[str] | None = None) -> list[Line]:
        """Return the lines that assign the named values (by default all), in order."""
        chosen = None if names is None else set(names)
        result: list[Line] = []
        for instruction in self._program.instructions:
            if chosen is None or instruction.target.name in chosen:
                before = self._counting(instruction)
                result += [*before, Line(instruction.target.name, self._text(instruction), instruction.equation)]
        return result

    def _text(self, instruction: Instruction) -> str:
        """Return the text of an instruction's value, cast to the type in which it is stored."""
        name = instruction.target.name
        text = self._value(instruction)
        if name not in self._types.computed_wide or name in self._types.wide:
            return text
        return f"{text if _is_atom(text) else f'({text})'}.to({self._like}.dtype)"

    def _value(self, instruction: Instruction) -> str:
        if isinstance(instruction, Contract):
            return _contraction(instruction, self._operand(instruction))
        if isinstance(instruction, Pointwise):
            return self._pointwise(instruction)
        if isinstance(instruction, Gather):
            return self._gather(instruction)
        if isinstance(instruction, Scatter):
            return self._scatter(instruction)
        if isinstance(instruction, Mask):
            return self._mask(instruction)
        if isinstance(instruction, Peak):
            return _peak(instruction)
        assert isinstance(instruction, Convolve | Magnitude)
        raise UsageError(f"program {self._program.name!r}: {instruction.target.name!r} is printed by another printer")

    def _operand(self, instruction: Contract) -> Callable[[Indexed], str]:
        """Return a function that prints a contraction's operands, all in one type."""
        computed_wide = instruction.target.name in self._types.computed_wide

        def read(entry: Indexed) -> str:
            """Return the text of an operand."""
            name = name_of(entry)
            if (name in self._types.wide) == computed_wide:
                return name
            return f"{name}.double()" if computed_wide else f"{name}.to({self._like}.dtype)"

        return read

    def _entry_of(self, instruction: Pointwise) -> Callable[[Indexed], str]:
        """Return a function that prints an expression's tensors, cast unless promotion makes the arithmetic wide."""
        name = instruction.target.name
        parts = [a for a in sympy.preorder_traversal(instruction.expression) if isinstance(a, sympy.Mul | sympy.Pow)]
        own = [p for p in parts if not any(name_of(e) in self._types.wide for e in entries(p))]
        promoted = any(name_of(e) in self._types.wide for e in entries(instruction.expression))
        safe = promoted and all(in_range(degree_of(p, self._types.degrees)) for p in own)
        if name not in self._types.computed_wide or safe:
            return name_of
        return lambda e: name_of(e) if name_of(e) in self._types.wide else f"{name_of(e)}.double()"

    def _pointwise(self, instruction: Pointwise) -> str:
        target, expression = instruction.target.indices, instruction.expression
        covered = {i for e in entries(expression) for i in e.indices}
        lengths = [("-1" if i in covered else self._size(i.size)) for i in target]
        if not covered:
            number = ExpressionPrinter(str, self._sizes).text(expression)
            return f"{self._like}.new_full(({', '.join(lengths)},), {number})"
        whole = set(target) <= covered
        named = self._entry_of(instruction)
        printer = ExpressionPrinter(lambda e: _spread(named(e), tuple(e.indices), target, not whole), self._sizes)
        if isinstance(expression, sympy.Piecewise) and all(value.is_number for value, _ in expression.args):
            return f"{printer.text(expression)}.to({self._like}.dtype)"
        return printer.text(expression) if whole else f"{printer.factor(expression)}.expand({', '.join(lengths)})"

    def _gather(self, instruction: Gather) -> str:
        found = placement_of(instruction)
        source = _permuted(name_of(instruction.operand), found.order)
        positions = self._positions(found, instruction.target.indices)
        lengths = [self._program.values[name_of(instruction.operand)].indices[k].size for k in found.order]
        read = lengths[found.start : found.start + len(positions)]
        inside = all(always_within(p, n) for p, n in zip(found.positions, read, strict=True))
        if inside and not found.spread:
            return f"{source}[{', '.join([':'] * found.start + positions)}]"
        filled = "" if instruction.filled else ", filled=False"
        return f"take({source}, {found.start}, {', '.join(positions)}{filled})"

    def _scatter(self, instruction: Scatter) -> str:
        found = placement_of(instruction)
        own = instruction.target.indices
        values = broadcast(instruction.operand, found.indices, True)
        read = found.order[found.start : found.start + len(found.positions)]
        lengths = ", ".join(self._size(own[k].size) for k in read)
        positions = ", ".join(self._positions(found, found.indices))
        comma = "," if len(read) == 1 else ""
        text = f"put({values}, {found.start}, ({lengths}{comma}), {positions})"
        return _permuted(text, tuple(found.order.index(k) for k in range(len(own))))

    def _mask(self, instruction: Mask) -> str:
        target, samples = instruction.target.indices, self._counters.get(BATCH.size, "")
        text = mask_text(instruction, lambda e: self._position(e, target), samples)
        return f"({text}).to({self._like}.dtype)"

    def _positions(self, found: Placement, layout: tuple[Index, ...]) -> list[str]:
        """Return the text of each position, over the axes of the grid."""
        grid = found.grid or (BATCH,)
        texts = [self._position(p, grid) for p in found.positions]
        if found.spread:
            everywhere = f"0 * {self._counters[BATCH.size]}"
            return [f"{everywhere} + {text}" for text in texts]
        return texts

    def _position(self, position: Expr, layout: tuple[Index, ...]) -> str:
        here = {i: _spread(self._counters[i.size], (i,), layout) for i in indices_of((position,)) if self._counts(i)}
        return position_text(position, lambda e: broadcast(e, layout), {**self._sizes, **here})

    def _counts(self, index: Index) -> bool:
        return index.size in self._counters

    def _counting(self, instruction: Instruction) -> list[Line]:
        """Return the lines that assign the index ranges that an instruction's positions need."""
        if not isinstance(instruction, Gather | Scatter | Mask):
            return []
        spread = False
        if isinstance(instruction, Mask):
            needed = [i for guard in instruction.guards for i in bare_indices(guard)]
            spread = not indices_of(instruction.guards)
        else:
            found = placement_of(instruction)
            needed, spread = [i for p in found.positions for i in bare_indices(p)], found.spread
        lengths = [i.size for i in needed] + [BATCH.size] * spread
        result = []
        for size in dict.fromkeys(lengths):
            if size not in self._counters:
                name = self._fresh(f"each_{'s' if size == BATCH.size else size}")
                self._counters[size] = name
                result.append(Line(name, f"torch.arange({self._size(size)}, device={self._like}.device)"))
        return result

    def _fresh(self, stem: str) -> str:
        name = "".join(c if c.isalnum() else "_" for c in stem)
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _size(self, size: Expr) -> str:
        return ExpressionPrinter(str, self._sizes).text(size)


def _is_atom(text: str) -> bool:
    """Return whether a text binds as tightly as a name: it has no operator outside brackets."""
    depth = 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if depth == 0 and character in " -":
            return False
    return True


def _contraction(instruction: Contract, named: Callable[[Indexed], str]) -> str:
    """Return a sum of one tensor or of squares, a product of matrices, or ``einsum``."""
    operands, target, summed = instruction.operands, tuple(instruction.target.indices), instruction.summed
    first, last = operands[0], operands[-1]
    rest = tuple(i for i in first.indices if i not in summed)
    if all(o.indices == first.indices for o in operands) and rest == target:
        axes = [k - len(first.indices) for k, i in enumerate(first.indices) if i in summed]
        return f"{_product([named(o) for o in operands])}.sum({axes[0] if len(axes) == 1 else tuple(axes)})"
    for left, right in ((first, last), (last, first)):
        plain = len(operands) == 2 and len(summed) == 1
        product = _matrices(left, right, target, summed, named) if plain else None
        if product:
            return product
    return f'torch.einsum("{einsum_equation(instruction)}", {", ".join(named(o) for o in operands)})'


def _peak(instruction: Peak) -> str:
    """Return the largest entries of a tensor along some axes; the program takes no derivative of them."""
    axes = instruction.operand.indices
    along = ", ".join(str(k - len(axes)) for k, i in enumerate(axes) if i in instruction.summed)
    left = tuple(i for i in axes if i not in instruction.summed)
    order = tuple(left.index(i) for i in instruction.target.indices)
    largest = f"torch.amax({name_of(instruction.operand)}, ({along},))"
    return _permuted(largest, order)


def _product(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{names[0]}.square()" if names[0] == names[1] and len(names) == 2 else f"({' * '.join(names)})"


def _matrices(
    left: Indexed,
    right: Indexed,
    target: tuple[Index, ...],
    summed: tuple[Index, ...],
    named: Callable[[Indexed], str],
) -> str | None:
    """Return ``left`` times a matrix, or the transpose of one matrix times another."""
    a, b, (j,) = tuple(left.indices), tuple(right.indices), summed
    if len(b) != 2 or j not in b or (BATCH in b and j != BATCH):
        return None
    other = b[1 - b.index(j)]
    if a[-1] == j and other not in a and target == (*a[:-1], other):
        product = f"F.linear({named(left)}, {named(right)})"
        return product if b[1] == j else f"{named(left)} @ {named(right)}"
    if len(a) == 2 and a[0] == b[0] == j and target == (a[1], b[1]):
        return f"{named(left)}.t() @ {named(right)}"
    return None


def broadcast(entry: Indexed, target: tuple[Index, ...], full: bool = False) -> str:
    """Return the text of a tensor with its axes aligned to the target's; with ``full``, missing leading axes too."""
    return _spread(name_of(entry), tuple(entry.indices), target, full)


def _spread(name: str, own: tuple[Index, ...], target: tuple[Index, ...], full: bool = False) -> str:
    return axes_in_place(name, own, target, _permuted, full)


def _permuted(name: str, order: tuple[int, ...]) -> str:
    if order == tuple(range(len(order))):
        return name
    return f"{name}.t()" if order == (1, 0) else f"{name}.permute({', '.join(map(str, order))})"
