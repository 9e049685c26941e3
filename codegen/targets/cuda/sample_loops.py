"""Print a loop over samples as CUDA C++: a block processes one sample at a time; its threads share a value's entries.

    Pointwise  z[s,i] = f*(..)      entries of z among the threads
    Contract   E[s] = sum x**2      entries of x among the threads, summed over the block; every thread gets E
               y[s,i] = sum ..      entries of y among the threads; each computes its own sum
    Scatter    dx[s,2*k - 1] += dy  zeros first; threads share the axes along which positions are distinct

All threads synchronise after a value in memory is written. Sums over samples accumulate in memory of the block; the
blocks' sums are added afterwards, so that equal inputs give equal bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import sympy
from sympy import Expr

from codegen.ir.program import Contract, Instruction, Peak, Program, Scatter, Value, name_of
from codegen.passes.accumulation import Types
from codegen.printing.sample_loops import LoopPrinter, SampleKernel, grouped, spelled, whole
from codegen.schedule.samples import Walk
from derive.algebra.index import Index
from derive.forward_map import BATCH

_STEP = "    "
_BARRIER = "__syncthreads();"


class BlockPrinter(LoopPrinter):
    """Prints the instructions of one loop over samples for a block of threads."""

    def __init__(self, program: Program, walk: Walk, types: Types, integers: frozenset[str]) -> None:
        super().__init__(program, walk, types, integers)
        self.spans: dict[Expr, None] = {}
        self._added: list[Value] = []

    def kernel(self, name: str) -> SampleKernel:
        """Return the kernel's text and arguments."""
        made = super().kernel(name)
        values = self._program.values
        memory = [*made.context["inner"], *self._sums(), *made.context["totals"]]
        tensors = tuple(n for n in made.tensors if n not in made.totals)
        parameters = [
            *(p for p in made.context["parameters"] if p.split()[1] == "Offset" and "*" not in p),
            *(self._parameter(values[n]) for n in tensors),
            *(p for p in made.context["parameters"] if p.endswith("_setting")),
            *(f"Wide* const {m['name']}_memory" for m in memory),
        ]
        inner = (*made.inner, *(sympy.Mul(*(i.size for i in self._axes(v))) for v in self._added))
        context = {**made.context, "parameters": parameters, "memory": memory}
        return SampleKernel(name, made.lengths, tensors, made.scalars, made.totals, inner, context)

    def _sums(self) -> list[dict[str, str]]:
        return [{**self._memory(v), "name": f"{spelled(v.name)}_sums"} for v in self._added]

    def _lines(self, instruction: Instruction) -> list[str]:
        lines = super()._lines(instruction)
        target = instruction.target
        return lines if self._is_local(target) else [*lines, _BARRIER]

    def _is_local(self, value: Value) -> bool:
        """Whether every thread holds its own, equal copy of a value."""
        return value.name not in self._outside and not self._axes(value)

    def _each(self, indices: Sequence[Index], body: Sequence[str], simd: str = "") -> list[str]:
        """Return a loop in which threads share the entries along indices."""
        if not indices:
            return list(body)
        size = sympy.Mul(*(i.size for i in indices))
        self.spans[size] = None
        opened = f"for (Offset entry = threadIdx.x; entry < {whole(size, {})}; entry += blockDim.x) {{"
        places, behind = [], sympy.S.One
        for position, index in reversed(list(enumerate(indices))):
            text = "entry" if behind == 1 else f"entry / {grouped(whole(behind, {}))}"
            text += "" if position == 0 else f" % {grouped(whole(index.size, {}))}"
            places.append(f"const Offset {self._index(index)} = {text};")
            behind *= index.size
        return [opened, *(_STEP + line for line in [*reversed(places), *body]), "}"]

    def _serial(self, indices: Sequence[Index], body: Sequence[str]) -> list[str]:
        return super()._each(indices, body)

    def _contraction(self, instruction: Contract, note: str) -> list[str]:
        target, total = instruction.target, f"{spelled(instruction.target.name)}_sum"
        axes, summed = self._axes(target), [i for i in instruction.summed if i != BATCH]
        factors = " * ".join(self._entry(o) for o in instruction.operands)
        added = f"{total} += {factors};"
        if not axes:
            end = self._stored(target, f"row_sum({total})", note)
            if not self._is_local(target):  # all threads take part in the sum, one stores it
                end = f"{total} = row_sum({total});\n{self._stored(target, total, note)}"
            return [f"Wide {total} = 0;", *self._each(summed, [added]), *end.split("\n")]
        inside = [f"Wide {total} = 0;", *self._serial(summed, [added])]
        if target.name in self._totals:
            return self._each(axes, [*inside, f"{self._place(target.entry)} += {total};{note}"])
        return self._each(axes, [*inside, self._stored(target, total, note)])

    def _peak(self, instruction: Peak, note: str) -> list[str]:
        target, largest = instruction.target, f"{spelled(instruction.target.name)}_largest"
        compared = f"{largest} = fmax({largest}, {self._entry(instruction.operand)});"
        opened = f"Wide {largest} = -infinity();"
        if self._axes(target):
            inside = [opened, *self._serial(instruction.summed, [compared]), self._stored(target, largest, note)]
            return self._each(self._axes(target), inside)
        end = self._stored(target, largest, note)
        return [opened, *self._each(instruction.summed, [compared]), f"{largest} = row_largest({largest});", end]

    def _scatter(self, instruction: Scatter, note: str) -> list[str]:
        """Threads share only the axes whose index is itself a position, so that no two add to the same entry."""
        target, operand = instruction.target, instruction.operand
        counts = Counter(i for p in instruction.positions for i in p.atoms(Index))
        apart = [p for p in instruction.positions if isinstance(p, Index) and counts[p] == 1 and p != BATCH]
        others = [i for i in operand.indices if i != BATCH and i not in apart]
        where, conditions = self._places(target.entry, instruction.positions)
        total = target.name in self._totals
        memory = self._memory_of(target.name) if total else self._sum_of(target)
        offset = where if total else self._within_sample(target, instruction)
        line = f"{memory}[{offset}] += {self._entry(operand)};{note}"
        added = self._serial(others, [f"if ({conditions}) {line}" if conditions else line])
        shared = self._each(apart, added) if apart else ["if (threadIdx.x == 0) {", *(_STEP + a for a in added), "}"]
        if total:
            return shared
        self._names = {}
        own = self._offset_within(target, [self._index(i) for i in target.indices])
        cleared = self._each(self._axes(target), [f"{memory}[{own}] = 0;"])
        lines = [*cleared, _BARRIER, *shared]
        if target.name not in self._outside:
            return lines
        return [*lines, _BARRIER, *self._each(self._axes(target), [self._stored(target, f"{memory}[{own}]", "")])]

    def _sum_of(self, target: Value) -> str:
        """Return the memory in which a value's entries are summed: its own, if that is memory of the block."""
        if target.name not in self._outside:
            return self._memory_of(target.name)
        self._added.append(target)
        return f"{spelled(target.name)}_sums"

    def _within_sample(self, target: Value, instruction: Scatter) -> str:
        """Return the offset of a position in memory of the block, which holds one sample."""
        outside, self._outside = self._outside, self._outside - {target.name}
        where, _ = self._places(target.entry, instruction.positions)
        self._outside = outside
        return where

    def _offset_within(self, target: Value, texts: Sequence[str]) -> str:
        outside, self._outside = self._outside, self._outside - {target.name}
        where = self._offset(target.name, target.indices, texts)
        self._outside = outside
        return where

    def _widened(self, name: str, where: str) -> str:
        value = f"{self._memory_of(name)}[{where}]"
        return f"Wide(widen({value}))" if self._is_element(name) else f"Wide({value})"

    def _is_element(self, name: str) -> bool:
        held = name in self._outside and name not in self._totals
        return held and self._type(name) == "Element"

    def _entry(self, entry: sympy.Indexed) -> str:
        name = name_of(entry)
        if self._is_element(name):
            return f"Wide(widen({self._place(entry)}))"
        return super()._entry(entry)

    def _stored(self, value: Value, text: str, note: str) -> str:
        if self._is_local(value):
            return super()._stored(value, text, note)
        stored = f"narrow<Element>({text})" if self._is_element(value.name) else text
        first = "" if self._axes(value) else "if (threadIdx.x == 0) "
        return f"{first}{self._place(value.entry)} = {stored};{note}"
