"""Print a loop over samples as a Triton kernel: a program processes one sample at a time, by tiles of entries.

    Pointwise  z[s,i] = f*(..)      tiles of z's entries
    Contract   E[s] = sum x**2      tiles of x's entries, summed; E is a number
               y[s,i] = sum ..      tiles of y's entries; each entry computes its own sum
    Scatter    dx[s,2*k - 1] += dy  zeros first; tiles along the axes on which positions are distinct

A tile has one entry per thread of a program. All threads synchronise after a value in memory is written. Sums over
samples accumulate in memory of the program, and the programs' sums are added afterwards. Subexpressions without a
tensor are computed before the launch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import sympy
from sympy import Expr, Indexed, Symbol

from codegen.ir.program import Contract, Instruction, Peak, Program, Scatter, Value, name_of
from codegen.passes.accumulation import Types
from codegen.printing.sample_loops import LoopPrinter, SampleKernel, grouped, spelled, whole
from codegen.schedule.samples import Walk
from codegen.targets.triton.expressions import HELPERS, Constants, TileExpressionPrinter
from derive.algebra.index import Index
from derive.forward_map import BATCH

_STEP = "    "
_BARRIER = "tl.debug_barrier()"
_INDEX = re.compile(r"\bi\d+\b|\bentry\b")


class ProgramPrinter(LoopPrinter):
    """Prints the instructions of one loop over samples for a Triton program; ``helpers`` are functions it calls."""

    over = "//"
    choice = "tl.where({}, {}, {})"

    def __init__(self, program: Program, walk: Walk, types: Types, integers: frozenset[str]) -> None:
        super().__init__(program, walk, types, integers)
        self._constants = Constants()
        self._added: list[Value] = []
        self._tiled: frozenset[Index] = frozenset()

    def kernel(self, name: str) -> SampleKernel:
        """Return the kernel's text and arguments."""
        made = super().kernel(name)
        added = [{**self._memory(v), "name": f"{spelled(v.name)}_sums"} for v in self._added]
        memory = [*made.context["inner"], *added, *made.context["totals"]]
        tensors = tuple(n for n in made.tensors if n not in made.totals)
        constants = self._constants.items
        arguments = [
            *(str(size) if size != BATCH.size else "samples" for size in self._spelled(made.lengths)),
            *(f"{spelled(n)}_data" for n in tensors),
            *(f"{m['name']}_memory" for m in memory),
            *(f"{constant}:\0tl.constexpr" for constant, _ in constants),
            "THREADS:\0tl.constexpr",  # a space that no line breaks at
        ]
        lines = list(made.context["lines"])
        helpers = [h for h in HELPERS if re.search(rf"(?<![.\w]){h}\(", "\n".join(lines))]
        context = {"name": name, "arguments": arguments, "memory": memory, "lines": lines, "helpers": helpers}
        inner = (*made.inner, *(sympy.Mul(*(i.size for i in self._axes(v))) for v in self._added))
        scalars = tuple(text for _, text in constants)
        return SampleKernel(name, made.lengths, tensors, scalars, made.totals, inner, context)

    @staticmethod
    def _spelled(lengths: Sequence[Symbol]) -> list[Symbol]:
        return [size if size == BATCH.size else Symbol(spelled(str(size))) for size in lengths]

    def _lines(self, instruction: Instruction) -> list[str]:
        target = self._axes(instruction.target)
        summed = instruction.summed if isinstance(instruction, Contract | Peak) else ()
        self._tile(target or [i for i in summed if i != BATCH])
        lines = [line.replace("  //", "  #") for line in super()._lines(instruction)]
        return lines if self._is_local(instruction.target) else [*lines, _BARRIER]

    def _is_local(self, value: Value) -> bool:
        """Whether a value is a scalar of the program, not in memory."""
        return value.name not in self._outside and not self._axes(value)

    def _each(self, indices: Sequence[Index], body: Sequence[str], simd: str = "") -> list[str]:
        """Return a loop over tiles of the entries along indices; ``body`` is code for one tile."""
        return self._over(indices, body) if indices else list(body)

    def _over(self, indices: Sequence[Index], body: Sequence[str]) -> list[str]:
        size = whole(sympy.Mul(*(i.size for i in indices)), {})
        places, behind = [], sympy.S.One
        for position, index in reversed(list(enumerate(indices))):
            text = "entry" if behind == 1 else f"entry // {grouped(whole(behind, {}))}"
            text += "" if position == 0 else f" % {grouped(whole(index.size, {}))}"
            places.append(f"{self._index(index)} = {text}")
            behind *= index.size
        return [
            f"for start in range(0, {size}, THREADS):",
            f"{_STEP}entry = (start + tl.arange(0, THREADS)).to(tl.int64)",
            f"{_STEP}inside = entry < {size}",
            *(_STEP + line for line in [*reversed(places), *body]),
        ]

    def _serial(self, indices: Sequence[Index], body: Sequence[str]) -> list[str]:
        loops = [f"{_STEP * k}for {self._index(i)} in range({whole(i.size, {})}):" for k, i in enumerate(indices)]
        return [*loops, *(_STEP * len(indices) + line for line in body)]

    def _tile(self, indices: Sequence[Index]) -> None:
        """Set which indices are tiles in the following lines."""
        self._tiled = frozenset(indices)

    def _contraction(self, instruction: Contract, note: str) -> list[str]:
        target, total = instruction.target, f"{spelled(instruction.target.name)}_sum"
        axes, summed = self._axes(target), [i for i in instruction.summed if i != BATCH]
        factors = " * ".join(self._entry(o) for o in instruction.operands)
        opened = f"{total} = tl.zeros((THREADS,), tl.float64)"
        if not axes:
            inside = self._each(summed, [f"{total} += tl.where(inside, {factors}, 0.0)"])
            self._tile(())
            return [opened, *inside, self._stored(target, f"tl.sum({total})", note)]
        inside = [opened, *self._serial(summed, [f"{total} += {factors}"])]
        if target.name in self._totals:
            return self._each(axes, [*inside, self._plus(target.name, self._offset_of(target), total, note)])
        return self._each(axes, [*inside, self._stored(target, total, note)])

    def _peak(self, instruction: Peak, note: str) -> list[str]:
        target, largest = instruction.target, f"{spelled(instruction.target.name)}_largest"
        axes, entry = self._axes(target), self._entry(instruction.operand)
        opened = f'{largest} = tl.full((THREADS,), float("-inf"), tl.float64)'
        compared = f"{largest} = tl.maximum({largest}, {entry}, propagate_nan=tl.PropagateNan.ALL)"
        if axes:
            inside = [opened, *self._serial(instruction.summed, [compared]), self._stored(target, largest, note)]
            return self._each(axes, inside)
        masked = compared.replace(entry, f'tl.where(inside, {entry}, float("-inf"))')
        lines = [opened, *self._each(instruction.summed, [masked])]
        self._tile(())
        return [*lines, self._stored(target, f"tl.max({largest})", note)]

    def _scatter(self, instruction: Scatter, note: str) -> list[str]:
        """Tiles run only along axes whose index is itself a position, so that no two entries add to the same one."""
        target, operand = instruction.target, instruction.operand
        total = target.name in self._totals
        if not total and target.name in self._outside:
            self._added.append(target)
        counts = Counter(i for p in instruction.positions for i in p.atoms(Index))
        apart = [p for p in instruction.positions if isinstance(p, Index) and counts[p] == 1 and p != BATCH]
        others = [i for i in operand.indices if i != BATCH and i not in apart]
        self._tile(apart)
        where, conditions = self._inner_places(target, instruction)
        condition = f" & ({conditions})" if conditions else ""
        added = self._serial(others, [self._plus(self._sums(target), where, self._entry(operand), note, condition)])
        lines = self._each(apart, added) if apart else self._alone(added)
        if total:
            return lines
        self._names = {}
        self._tile(self._axes(target))
        own = self._inner_offset(target)
        place = f"{self._sums(target)} + {own}"
        cleared = self._each(self._axes(target), [f"tl.store({place}, 0.0, mask=inside)"])
        if target.name not in self._outside:
            return [*cleared, _BARRIER, *lines]
        moved = self._stored(target, f"tl.load({place}, mask=inside, other=0.0)", "")
        return [*cleared, _BARRIER, *lines, _BARRIER, *self._each(self._axes(target), [moved])]

    @staticmethod
    def _alone(body: Sequence[str]) -> list[str]:
        """Return lines for one entry, the first of a tile."""
        return ["entry = tl.arange(0, THREADS).to(tl.int64)", "inside = entry < 1", *body]

    def _sums(self, target: Value) -> str:
        """Return the memory in which a value's entries are summed: its own, if that is memory of the program."""
        inner = target.name not in self._outside or target.name in self._totals
        return spelled(target.name) if inner else f"{spelled(target.name)}_sums"

    def _inner_places(self, target: Value, instruction: Scatter) -> tuple[str, str]:
        """Return the offset of a position in memory of the program, which holds one sample, and its conditions."""
        outside, self._outside = self._outside, self._outside - {target.name}
        found = self._places(target.entry, instruction.positions)
        self._outside = outside
        return found

    def _inner_offset(self, target: Value) -> str:
        outside, self._outside = self._outside, self._outside - {target.name}
        where = self._offset_of(target)
        self._outside = outside
        return where

    def _offset_of(self, value: Value) -> str:
        return self._offset(value.name, value.indices, [self._index(i) for i in value.indices])

    def _plus(self, memory: str, where: str, value: str, note: str, condition: str = "") -> str:
        place, mask = f"{memory} + {where}", f"inside{condition}"
        place += "" if self._varies(where) else " + 0 * entry"
        return f"tl.store({place}, tl.load({place}, mask={mask}, other=0.0) + {value}, mask={mask}){note}"

    def _varies(self, text: str) -> bool:
        """Whether a text is a tile, not a scalar."""
        tiles = {self._names[i] for i in self._tiled if i in self._names} | {"entry"}
        return bool(tiles & set(_INDEX.findall(text)))

    def _read(self, name: str, where: str, condition: str = "") -> str:
        """Return the entries of a value at offsets, zero where a condition fails."""
        place, real = f"{self._memory_of(name)} + {where}", self._type(name) != "Offset"
        if not self._tiled:
            masked = f", mask={condition.removeprefix(' & ')}, other={'0.0' if real else '0'}" if condition else ""
            text = f"tl.load({place}{masked})"
        elif not self._varies(where) and not condition:
            text = f"tl.load({place})"
        else:
            place += "" if self._varies(where) else " + 0 * entry"
            other = ("0.0" if condition else "1.0") if real else "0"  # one beyond the end, to avoid division by zero
            text = f"tl.load({place}, mask=inside{condition}, other={other})"
        return f"{text}.to(tl.float64)" if real else text

    def _entry(self, entry: Indexed) -> str:
        name = name_of(entry)
        if name not in self._outside and not self._axes(self._program.values[name]):
            return spelled(name)
        own = self._program.values[name].indices
        return self._read(name, self._offset(name, own, [self._index(i) for i in entry.indices]))

    def _integer(self, entry: Indexed) -> str:
        given = name_of(entry) in self._outside and self._type(name_of(entry)) == "Offset"
        return self._entry(entry) if given else f"{self._entry(entry)}.to(tl.int64)"

    def _widened(self, name: str, where: str) -> str:
        return f"{name}\0{where}"  # ``_if`` or ``_stored`` inserts a mask: positions outside must not be loaded

    def _if(self, conditions: str, value: str) -> str:
        if "\0" in value:
            name, where = value.split("\0")
            return self._read(name, where, f" & ({conditions})")
        return f"tl.where({conditions}, {value}, 0)"

    def _all(self, conditions: Sequence[str]) -> str:
        return " & ".join(f"({c})" for c in conditions) if len(conditions) > 1 else "".join(conditions)

    def _scalar(self, expression: Expr) -> str:
        lengths = {s: spelled(str(s)) for s in expression.free_symbols if s.is_integer and not isinstance(s, Index)}
        printer = TileExpressionPrinter(self._entry, self._constants)
        return printer.text(expression.xreplace({s: Symbol(n, integer=True) for s, n in lengths.items()}))

    def _stored(self, value: Value, text: str, note: str) -> str:
        if "\0" in text:
            name, place = text.split("\0")
            text = self._read(name, place)
        if self._is_local(value):
            return f"{spelled(value.name)} = zero + {text}{note}"
        where, memory = self._offset_of(value), self._memory_of(value.name)
        held = value.name in self._outside and value.name not in self._totals
        text = f"(zero + {text}).to({memory}.dtype.element_ty)" if held else f"zero + {text}"
        mask = ", mask=inside" if self._varies(where) else ""
        return f"tl.store({memory} + {where}, {text}{mask}){note}"
