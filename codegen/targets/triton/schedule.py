"""Which kernel computes which instruction: a forward and a backward program, cut into parts that each walk a tile.

    scale            passes over the columns of x, which give the numbers a row
    forward          a product of matrices over columns, then what is pointwise in rows and units
    gradient rows    one pass over g: its contractions along the units (a number a row) and along the rows (db)
    input gradient   a product over units, g W, then passes over the columns
    weight gradient  a product over rows, after what scales its operands

Refused with a ``ScheduleError``: any other shape of program. No instruction is changed or left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sympy import Dummy

from codegen.ir.program import Contract, Instruction, Magnitude, Pointwise, Program, name_of
from codegen.targets.triton.roles import Roles, ScheduleError, roles

Reduction = Contract | Magnitude


@dataclass(frozen=True)
class Pass:
    """One walk over a row: what is computed before it, in every tile of it, and what it sums up."""

    before: tuple[Pointwise, ...]
    tile: tuple[Pointwise, ...]
    sums: tuple[Reduction, ...]

    @property
    def walks(self) -> bool:
        """Whether there is anything to walk for."""
        return bool(self.tile or self.sums)

    @property
    def tiles(self) -> tuple[Instruction, ...]:
        """The instructions inside the walk."""
        return (*self.tile, *self.sums)


@dataclass(frozen=True)
class Product:
    """A contraction of two matrices, what its operands are made of, and what is made of its result."""

    before: tuple[Pointwise, ...]
    contract: Contract
    after: tuple[Pointwise, ...]


@dataclass(frozen=True)
class GradientRows:
    """One pass over the output's gradient; ``row_sums`` has one number a row, ``unit_sums`` one a unit.

    ``after`` makes ``outputs`` of the unit sums; it is linear in them, so that it may come before blocks are added up.
    """

    before: tuple[Pointwise, ...]
    tile: tuple[Pointwise, ...]
    row_sums: tuple[Contract, ...]
    unit_sums: tuple[Contract, ...]
    after: tuple[Pointwise, ...]
    outputs: tuple[str, ...]

    @property
    def tiles(self) -> tuple[Instruction, ...]:
        """The instructions inside the walk."""
        return (*self.tile, *self.row_sums, *self.unit_sums, *self.after)


@dataclass(frozen=True)
class Schedule:
    """The parts of a map, with the roles of its axes; ``finish`` follows the product of the input's gradient."""

    roles: Roles
    scale: Program
    scale_passes: tuple[Pass, ...]
    forward: Product
    gradient_rows: GradientRows | None
    input_product: Contract
    finish: tuple[Instruction, ...]
    finish_passes: tuple[Pass, ...]
    weight: Product


def schedule(scale: Program, forward: Program, backward: Program) -> Schedule:
    """Return the schedule of three programs: numbers a row, output, and gradients, in the order input, weight, bias.

    Raise ``ScheduleError`` for programs of another shape.
    """
    names = roles(forward)
    wide = _Sorter(names, backward)
    gradient, weight, *bias = backward.outputs
    row_sums = wide.row_sums(backward.needed_for([gradient]))
    product, finish = wide.input_gradient(gradient, row_sums)
    of_weight = wide.product(weight, ("i", "j"), "s")
    _check_linear(of_weight.after, [of_weight.contract], weight)
    return Schedule(
        roles=names,
        scale=scale,
        scale_passes=_Sorter(names, scale).passes(scale.instructions, scale.outputs),
        forward=_Sorter(names, forward).product(forward.outputs[0], ("s", "i"), "j"),
        gradient_rows=wide.gradient_rows(row_sums, bias),
        input_product=product,
        finish=finish,
        finish_passes=wide.passes(finish, [gradient]),
        weight=of_weight,
    )


class _Sorter:
    """Sorts the instructions of one program by the roles of their axes."""

    def __init__(self, names: Roles, program: Program) -> None:
        self._roles, self._program = names, program

    def product(self, output: str, target: tuple[str, ...], along: str) -> Product:
        """Return the instructions of ``output`` around the one product of two matrices among them."""
        needed = self._program.needed_for([output])
        contract = self._the_product(needed, target, along, output)
        before = [i for i in needed if i.target.name in self._sources(contract)]
        after = [i for i in needed if i not in before and i != contract]
        return Product(_pointwise(before, output), contract, _pointwise(after, output))

    def row_sums(self, needed: Sequence[Instruction]) -> tuple[Contract, ...]:
        """Return the contractions along the units that leave one number a row."""
        return tuple(i for i in needed if isinstance(i, Contract) and self._shape(i) == (("s",), ("i",)))

    def input_gradient(self, output: str, known: Sequence[Contract]) -> tuple[Contract, tuple[Instruction, ...]]:
        """Return the product of matrices behind the gradient with respect to the input, and what follows it."""
        needed = self._program.needed_for([output])
        contract = self._the_product(needed, ("s", "j"), "i", output)
        apart = {*(i.target.name for i in known), contract.target.name}
        inside = {name for i in (*known, contract) for name in self._sources(i)} - apart
        finish = tuple(i for i in needed if i.target.name not in apart | inside)
        for instruction in (*finish, *(i for i in needed if i.target.name in inside)):
            if "i" in self._axes(instruction) or instruction.target.name in inside:
                raise ScheduleError(f"the triton target has no kernel for {instruction.target.name!r} in {output!r}")
        return contract, finish

    def gradient_rows(self, row_sums: Sequence[Contract], outputs: Sequence[str]) -> GradientRows | None:
        """Return the pass over the gradient that gives ``row_sums`` and the named sums along the rows."""
        needed = self._program.needed_for([*(c.target.name for c in row_sums), *outputs])
        if not needed:
            return None
        unit_sums = tuple(i for i in needed if isinstance(i, Contract) and self._shape(i) == (("i",), ("s",)))
        names = {i.target.name for i in unit_sums}
        plain = _pointwise([i for i in needed if i not in (*row_sums, *unit_sums)], " and ".join(outputs))
        if any("j" in self._axes(i) for i in needed):
            raise ScheduleError(f"the triton target has no kernel for {outputs} that reads along the columns")
        before = tuple(i for i in plain if self._axes(i) == {"s"})
        after = tuple(i for i in plain if names & self._sources(i))
        for output in outputs:
            _check_linear(after, unit_sums, output)
        tile = tuple(i for i in plain if i not in (*before, *after))
        return GradientRows(before, tile, tuple(row_sums), unit_sums, after, tuple(outputs))

    def passes(self, instructions: Sequence[Instruction], outputs: Iterable[str]) -> tuple[Pass, ...]:
        """Cut instructions into walks over the columns; tile values that several walks need are in each of them."""
        levels: dict[str, int] = {}
        for instruction in instructions:
            read = max((levels.get(name_of(e), 0) for e in instruction.reads), default=0)
            levels[instruction.target.name] = read + (not isinstance(instruction, Pointwise))
        tile = [i for i in instructions if isinstance(i, Pointwise) and "j" in self._axes(i)]
        narrow = [i for i in instructions if isinstance(i, Pointwise) and i not in tile]
        sums = [i for i in instructions if isinstance(i, Contract | Magnitude)]
        if len(tile) + len(narrow) + len(sums) < len(instructions):
            raise ScheduleError(f"the triton target has no kernel for a convolution in {self._program.name!r}")
        ends = set(outputs)
        result = []
        for level in range(max(levels.values()) + 1):
            here = [i for i in sums if levels[i.target.name] == level + 1]
            stored = [i for i in tile if i.target.name in ends and levels[i.target.name] == level]
            needed = {i.target.name for i in stored} | {n for i in (*here, *stored) for n in self._sources(i)}
            result.append(
                Pass(
                    tuple(i for i in narrow if levels[i.target.name] == level),
                    tuple(i for i in tile if i.target.name in needed),
                    tuple(here),
                )
            )
        return tuple(result)

    def _sources(self, instruction: Instruction) -> set[str]:
        """Return the names of the values that an instruction is made of, inputs and itself not counted."""
        needed = self._program.needed_for([name_of(e) for e in instruction.reads])
        return {i.target.name for i in needed}

    def _axes(self, instruction: Instruction) -> set[str]:
        touched = (instruction.target.entry, *instruction.reads)
        return {role for entry in touched for role in self._roles.of(entry.indices)}

    def _shape(self, instruction: Contract) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self._roles.of(instruction.target.indices), self._roles.of(instruction.summed)

    def _the_product(self, needed: Sequence[Instruction], target: tuple[str, ...], along: str, output: str) -> Contract:
        """Return the one product of matrices of this shape."""
        pairs = sorted(sorted((role, along)) for role in target)
        found = [
            i
            for i in needed
            if isinstance(i, Contract)
            and self._shape(i) == (target, (along,))
            and sorted(sorted(self._roles.of(o.indices)) for o in i.operands) == pairs
        ]
        if len(found) != 1:
            raise ScheduleError(f"the triton target needs one product of matrices for {output!r}, not {len(found)}")
        return found[0]


def _pointwise(instructions: Iterable[Instruction], output: str) -> tuple[Pointwise, ...]:
    """Return the instructions, all pointwise; raise ``ScheduleError`` for one that is not."""
    found = tuple(instructions)
    for instruction in found:
        if not isinstance(instruction, Pointwise):
            raise ScheduleError(f"the triton target has no kernel for {instruction.target.name!r} behind {output!r}")
    return tuple(i for i in found if isinstance(i, Pointwise))


def _check_linear(after: Sequence[Pointwise], sums: Sequence[Contract], output: str) -> None:
    """Raise ``ScheduleError`` unless what follows sums along the rows is linear, so that parts can be added up."""
    names = {c.target.name for c in sums}
    for instruction in after:
        read = [e for e in instruction.reads if name_of(e) in names]
        unknown = [Dummy(f"a{k}") for k, _ in enumerate(read)]
        scalar = instruction.expression.xreplace(dict(zip(read, unknown, strict=True)))
        polynomial = scalar.as_poly(*unknown) if read else None
        if polynomial is None or any(sum(powers) != 1 for powers in polynomial.monoms()):
            raise ScheduleError(
                f"the triton target adds up {output!r} in parts, so {instruction.expression} cannot follow the sum"
            )
        names.add(instruction.target.name)
