"""Schedule a forward and a backward program for kernels on tiles: which kernel computes which instruction.

    scale            passes over the columns of x, which compute the numbers per row
    forward          a matrix product over columns, then pointwise work on rows and units
    gradient rows    one pass over g: its contractions along the units (one number per row) and along the rows (db)
    input gradient   a product over units, g W, then passes over the columns
    weight gradient  a product over rows, after its operands are scaled

A program of another form raises ``ScheduleError``. No instruction is changed or dropped.
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
    """One pass over a row: the instructions before it and in each of its tiles, and its sums."""

    before: tuple[Pointwise, ...]
    tile: tuple[Pointwise, ...]
    sums: tuple[Reduction, ...]

    @property
    def walks(self) -> bool:
        """Whether the pass has any work."""
        return bool(self.tile or self.sums)

    @property
    def tiles(self) -> tuple[Instruction, ...]:
        """The instructions inside the pass."""
        return (*self.tile, *self.sums)


@dataclass(frozen=True)
class Product:
    """A contraction of two matrices, with the instructions that compute its operands and those that use its result."""

    before: tuple[Pointwise, ...]
    contract: Contract
    after: tuple[Pointwise, ...]


@dataclass(frozen=True)
class GradientRows:
    """One pass over the output's gradient; ``row_sums`` has one number per row, ``unit_sums`` one per unit.

    ``after`` computes ``outputs`` from the unit sums; it is linear in them, so it may precede the sum over blocks.
    """

    before: tuple[Pointwise, ...]
    tile: tuple[Pointwise, ...]
    row_sums: tuple[Contract, ...]
    unit_sums: tuple[Contract, ...]
    after: tuple[Pointwise, ...]
    outputs: tuple[str, ...]

    @property
    def tiles(self) -> tuple[Instruction, ...]:
        """The instructions inside the pass."""
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
    """Return the schedule of three programs: numbers per row, output, and gradients (of input, weight, bias).

    Raises ``ScheduleError`` for programs of another form.
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
        """Return the contractions along the units to one number per row."""
        return tuple(i for i in needed if isinstance(i, Contract) and self._shape(i) == (("s",), ("i",)))

    def input_gradient(self, output: str, known: Sequence[Contract]) -> tuple[Contract, tuple[Instruction, ...]]:
        """Return the matrix product in the gradient with respect to the input, and the instructions after it."""
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
        """Return the pass over the gradient that computes ``row_sums`` and the named sums along the rows."""
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
        """Split instructions into passes over the columns; tile values that several passes need are in each of them."""
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
        """Return the names of the computed values that an instruction depends on, without itself."""
        needed = self._program.needed_for([name_of(e) for e in instruction.reads])
        return {i.target.name for i in needed}

    def _axes(self, instruction: Instruction) -> set[str]:
        touched = (instruction.target.entry, *instruction.reads)
        return {role for entry in touched for role in self._roles.of(entry.indices)}

    def _shape(self, instruction: Contract) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self._roles.of(instruction.target.indices), self._roles.of(instruction.summed)

    def _the_product(self, needed: Sequence[Instruction], target: tuple[str, ...], along: str, output: str) -> Contract:
        """Return the only matrix product of this shape."""
        pairs = sorted(sorted((role, along)) for role in target)
        found = [
            i
            for i in needed
            if isinstance(i, Contract)
            and self._shape(i) == (target, (along,))
            and sorted(sorted(self._roles.of(o.indices)) for o in i.operands) == pairs
        ]
        if len(found) != 1:
            raise ScheduleError(f"the triton target needs exactly one matrix product for {output!r}, not {len(found)}")
        return found[0]


def _pointwise(instructions: Iterable[Instruction], output: str) -> tuple[Pointwise, ...]:
    """Return the instructions, all pointwise; raise ``ScheduleError`` for one that is not."""
    found = tuple(instructions)
    for instruction in found:
        if not isinstance(instruction, Pointwise):
            raise ScheduleError(f"the triton target has no kernel for {instruction.target.name!r} after {output!r}")
    return tuple(i for i in found if isinstance(i, Pointwise))


def _check_linear(after: Sequence[Pointwise], sums: Sequence[Contract], output: str) -> None:
    """Raise ``ScheduleError`` unless the instructions after sums along the rows are linear, so that parts add up."""
    names = {c.target.name for c in sums}
    for instruction in after:
        read = [e for e in instruction.reads if name_of(e) in names]
        unknown = [Dummy(f"a{k}") for k, _ in enumerate(read)]
        scalar = instruction.expression.xreplace(dict(zip(read, unknown, strict=True)))
        polynomial = scalar.as_poly(*unknown) if read else None
        if polynomial is None or any(sum(powers) != 1 for powers in polynomial.monoms()):
            raise ScheduleError(
                f"the triton target sums {output!r} in parts, so the nonlinear {instruction.expression} cannot follow"
            )
        names.add(instruction.target.name)
