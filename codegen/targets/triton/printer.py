"""Instructions as lines of a Triton kernel, on tiles.

Everything is computed in the wide type, at least float32, except that matrix products have operands in the tensors'
type and a wide result. ``x_ptr`` is the address of a tensor ``x``, ``x_tile`` a tile of it in its own type, and ``x``
the same tile in the wide type.

    Pointwise   (s, j)    dx = f[:, None] * gW - c[:, None] * u
    Contract    (s,)      q += tl.sum(y * y, axis=1)
    Contract    (s, i)    xW = dot(x_tile, W_tile, xW, PRECISION)
    Magnitude   (s,)      peak = tl.maximum(peak, tl.max(tl.abs(x), axis=1))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sympy import Expr, Indexed, Mul

from codegen.ir.program import Contract, Instruction, Magnitude, Pointwise, Value, name_of
from codegen.targets.triton.expressions import Constants, TileExpressionPrinter
from codegen.targets.triton.roles import BLOCKS, RANGES, Role, Roles, ScheduleError

_TAKEN = {*RANGES.values(), *BLOCKS.values(), "start", "tl", "load", "load_row", "store", "WIDE", "PRECISION", "FLOOR"}


class TilePrinter:
    """Prints the instructions of one kernel, and collects the constants that they use."""

    def __init__(self, roles: Roles, memory: Iterable[Value]) -> None:
        self._roles = roles
        self._memory = {value.name: value for value in memory}
        self._constants = Constants()

    @property
    def constants(self) -> tuple[tuple[str, str], ...]:
        """The scalars used by the lines so far: each name with the Python text of its value."""
        return self._constants.items

    def lines(self, instructions: Iterable[Instruction], onward: bool = False) -> list[str]:
        """Return the lines of pointwise instructions and of sums, which with ``onward`` add to the current value."""
        return [line for i in instructions for line in self._line(i, onward)]

    def product(self, contract: Contract, onward: bool = True) -> list[str]:
        """Return the line of a matrix product; its operands are laid out with the summed axis inside."""
        left, right = (self._operand(e, contract) for e in self.sides(contract))
        name = _checked(contract.target.name)
        so_far = name if onward else self._zeros(contract)
        return _assigned(name, f"dot({left}, {right}, {so_far}, PRECISION)", contract.equation)

    def sides(self, contract: Contract) -> tuple[Indexed, Indexed]:
        """Return the operands of a matrix product, the one with the result's first axis first."""
        first, second = contract.operands
        return (first, second) if contract.target.indices[0] in first.indices else (second, first)

    def started(self, sums: Iterable[Contract | Magnitude]) -> list[str]:
        """Return the lines that initialise sums."""
        return [f"{_checked(s.target.name)} = {self._zeros(s)}" for s in sums]

    def _zeros(self, total: Contract | Magnitude) -> str:
        """Return a tile of zeros, or for a magnitude of its smallest value."""
        shape = self._shape(total.target)
        return f"tl.full({shape}, FLOOR, WIDE)" if isinstance(total, Magnitude) else f"tl.zeros({shape}, WIDE)"

    def _shape(self, value: Value) -> str:
        """Return the shape of a value's tile."""
        shape = ", ".join(BLOCKS[role] for role in self._roles.of(value.indices))
        return f"({shape},)" if len(value.indices) == 1 else f"({shape})"

    def loads(self, instructions: Sequence[Instruction], known: Iterable[str] = ()) -> list[str]:
        """Return the lines that load, in the wide type, the operands of instructions that are not loaded yet."""
        names = dict.fromkeys(name_of(e) for i in instructions for e in i.reads)
        new = [name for name in names if name in self._memory and name not in known]
        return [f"{name} = {self.load(name)}{'' if self.is_row_number(name) else '.to(WIDE)'}" for name in new]

    def is_row_number(self, name: str) -> bool:
        """Return whether a value in memory has one number per row: such values are wide and contiguous."""
        return self._roles.of(self._memory[name].indices) == ("s",)

    def load(self, name: str, turned: bool = False) -> str:
        """Return the call that loads a tile or a piece of a vector; a turned tile is transposed."""
        value = self._memory[name]
        axes = self._roles.of(value.indices)
        strides = ["1"] if self.is_row_number(name) else [f"{name}_{role}" for role in axes]
        axes, strides = (axes[::-1], strides[::-1]) if turned else (axes, strides)
        ends = [self._roles.sizes[role] for role in axes]
        kind = "load" if len(axes) == 2 else "load_row"
        return f"{kind}({name}_ptr, {', '.join([*(RANGES[r] for r in axes), *strides, *ends])})"

    def tile_loads(self, contract: Contract) -> list[str]:
        """Return the lines that load the operands of a product that are in memory."""
        summed = contract.summed[0]
        lines = []
        for position, entry in enumerate(self.sides(contract)):
            name = name_of(entry)
            if name in self._memory:
                turned = (entry.indices[0] == summed) == (position == 0)
                lines.append(f"{name}_tile = {self.load(name, turned)}")
        return lines

    def _operand(self, entry: Indexed, contract: Contract) -> str:
        """Return an operand of a product as a tile; a computed one is cast to the type of the one in memory."""
        name = name_of(entry)
        if name in self._memory:
            return f"{name}_tile"
        other = next((name_of(o) for o in contract.operands if name_of(o) in self._memory), None)
        if other is None:
            raise ScheduleError(f"the triton target needs an operand in memory for {contract.target.name!r}")
        return f"{_checked(name)}.to({other}_tile.dtype)"

    def _line(self, instruction: Instruction, onward: bool) -> list[str]:
        name = _checked(instruction.target.name)
        if isinstance(instruction, Pointwise):
            text = self._text(instruction.expression, self._roles.of(instruction.target.indices))
            text = text if instruction.reads else f"tl.full({self._shape(instruction.target)}, {text}, WIDE)"
            return _assigned(name, text, instruction.equation)
        if isinstance(instruction, Magnitude):
            peak = f"tl.max(tl.abs({name_of(instruction.operand)}), axis=1)"
            return _assigned(name, f"tl.maximum({peak}, {name if onward else 'FLOOR'})", instruction.equation)
        if not isinstance(instruction, Contract):
            raise ScheduleError(f"the triton target has no kernel for {name!r}")
        sign = "+=" if onward and self._roles.of(instruction.target.indices) == ("s",) else "="
        return _assigned(name, self._sum(instruction), instruction.equation, sign)

    def _sum(self, contract: Contract) -> str:
        """Return a sum along one axis of a tile."""
        along = self._roles.of(contract.summed)
        kept = self._roles.of(contract.target.indices)
        axes = tuple(role for role in RANGES if role in {*along, *kept})
        if len(axes) != 2 or len(along) != 1:
            raise ScheduleError(f"the triton target has no kernel for {contract.target.name!r}")
        if len(contract.operands) == 1 or set(contract.operands) == {contract.operands[0]}:
            factors = [self._entry(o, axes) for o in contract.operands]
            product = " * ".join(factors)
        else:
            product = self._text(Mul(*contract.operands), axes)
        return f"tl.sum({product}, axis={axes.index(along[0])})"

    def _text(self, expression: Expr, axes: tuple[Role, ...]) -> str:
        printer = TileExpressionPrinter(lambda e: self._entry(e, axes), self._constants)
        return printer.text(expression)

    def _entry(self, entry: Indexed, axes: tuple[Role, ...]) -> str:
        """Return an entry's name, expanded to broadcast to a tile along ``axes``."""
        name, own = _checked(name_of(entry)), self._roles.of(entry.indices)
        if own == axes:
            return name
        if len(own) == 1 and len(axes) == 2 and own[0] in axes:
            return f"{name}[:, None]" if own[0] == axes[0] else f"{name}[None, :]"
        if own == axes[::-1]:
            return f"tl.trans({name})"
        raise ScheduleError(f"the triton target cannot broadcast {entry} along {axes}")


def _assigned(name: str, text: str, equation: str, sign: str = "=", width: int = 110) -> list[str]:
    """Return an assignment with its equation in a comment at its end, or before it if the line would be too long."""
    code = f"{name} {sign} {text}"
    if not equation:
        return [code]
    whole = f"{code}  # {equation}"
    return [whole] if len(whole) <= width else [f"# {equation}", code]


def _checked(name: str) -> str:
    """Return a value's name; raise ``ScheduleError`` if the kernels use it for something else."""
    if name in _TAKEN or name.endswith(("_ptr", "_tile", "_kernel")):
        raise ScheduleError(f"a value is called {name!r}, which the triton target uses itself; rename it in the layer")
    return name
