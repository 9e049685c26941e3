"""Print a loop over samples (a ``Walk``) as C++: loops over the axes of one sample, scalar arithmetic in double.

    Pointwise  z[s,i] = f*(..)         for i: z[s*m + i] = ..
    Contract   E[s] = sum x**2         E = 0; for j: E += x[s*n + j]*x[s*n + j]
    Gather     y[s,k] = x[s,2*k - 1]   for k: the entry if the position is inside, else 0
    Scatter    dx[s,2*k - 1] += dy     zeros first, then for k: add if the position is inside
    Mask       1 if guards hold, else 0

A value that nothing outside the loop reads is in thread-local memory, without the batch axis; a scalar per sample is a
local variable. ``LoopPrinter`` prints code in which one thread processes whole samples; a target that shares a sample
among threads subclasses it.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Add, Expr, Indexed, KroneckerDelta, Mul, Symbol

from codegen.ir.program import Contract, Gather, Instruction, Mask, Peak, Pointwise, Program, Scatter, Value, name_of
from codegen.passes.accumulation import Types
from codegen.printing.c_names import identifier
from codegen.printing.c_scalars import ScalarPrinter
from codegen.schedule.samples import Walk, is_total
from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.nodes import AtMost, Divides, Within
from derive.errors import UsageError
from derive.forward_map import BATCH

_STEP = "    "
_OWN = re.compile(
    r"i\d+|sample|samples|first|end|part|parts|memory|threads|entry|\w+_memory|tl|zero|inside|block|blocks|step|ready"
)  # names that the kernels use themselves


@dataclass(frozen=True)
class SampleKernel:
    """One printed kernel: the context of its template, and its arguments in order.

    ``lengths`` are sizes and offsets, ``tensors`` the tensors read, then those written, ``scalars`` the settings.
    ``totals`` are the written tensors that are sums over samples; ``inner`` the sizes of each sample's local memory.
    """

    name: str
    lengths: tuple[Symbol, ...]
    tensors: tuple[str, ...]
    scalars: tuple[str, ...]
    totals: tuple[str, ...]
    inner: tuple[Expr, ...]
    context: Mapping[str, Any]


class LoopPrinter:
    """Prints the instructions of one loop over samples; raises ``UsageError`` for arithmetic that it cannot print."""

    over = "/"  # integer division
    choice = "({} ? {} : {})"  # between integers

    def __init__(self, program: Program, walk: Walk, types: Types, integers: frozenset[str]) -> None:
        self._program, self._walk, self._types, self._integers = program, walk, types, integers
        self._totals = {i.target.name for i in walk.instructions if is_total(i)}
        self._outside = {*walk.reads, *walk.results}
        self._names: dict[Index, str] = {}

    def kernel(self, name: str) -> SampleKernel:
        """Return the kernel's text and arguments."""
        walk = self._walk
        lines = [line for i in walk.instructions for line in self._lines(i)]
        scalars = tuple(s for s in self._program.scalars if any(s in _free(i) for i in walk.instructions))
        lengths = self._lengths()
        values = self._program.values
        context = {
            "name": name,
            "parameters": [
                *(f"const Offset {_length(size)}" for size in lengths),
                *(self._parameter(values[n]) for n in (*walk.reads, *walk.results)),
                *(f"const double {spelled(str(s))}_setting" for s in scalars),
            ],
            "settings": [f"const Wide {spelled(str(s))} = {spelled(str(s))}_setting;" for s in scalars],
            "totals": [self._memory(values[n]) for n in walk.results if n in self._totals],
            "inner": [self._memory(v) for v in walk.inner if self._axes(v)],
            "lines": lines,
        }
        totals = tuple(n for n in walk.results if n in self._totals)
        inner = tuple(sympy.Mul(*(i.size for i in self._axes(v))) for v in walk.inner if self._axes(v))
        return SampleKernel(
            name, lengths, (*walk.reads, *walk.results), tuple(map(str, scalars)), totals, inner, context
        )

    def _lengths(self) -> tuple[Symbol, ...]:
        values = self._program.values
        used = {name_of(e) for i in self._walk.instructions for e in i.reads}
        used |= {i.target.name for i in self._walk.instructions}
        found = {s for name in used for index in values[name].indices for s in index.size.free_symbols}
        found |= {s for i in self._walk.instructions for s in _free(i) if _is_length(s)}
        others = sorted(found - {BATCH.size} - set(self._program.scalars), key=str)
        return (BATCH.size, *others)

    def _parameter(self, value: Value) -> str:
        read = value.name in self._walk.reads
        return f"{'const ' if read else ''}{self._type(value.name)}* const {spelled(value.name)}_data"

    def _type(self, name: str) -> str:
        if name in self._integers:
            return "Offset"
        return "double" if name in self._types.wide else "Element"

    def _memory(self, value: Value) -> dict[str, str]:
        size = " * ".join(grouped(whole(i.size, {})) for i in self._axes(value)) or "1"
        return {"name": spelled(value.name), "size": size}

    def _axes(self, value: Value) -> tuple[Index, ...]:
        return tuple(i for i in value.indices if i != BATCH)

    def _lines(self, instruction: Instruction) -> list[str]:
        self._names = {}
        note = f"  // {instruction.equation}" if instruction.equation else ""
        match instruction:
            case Pointwise():
                text = self._scalar(instruction.expression)
                return self._each(self._axes(instruction.target), [self._stored(instruction.target, text, note)])
            case Contract():
                return self._contraction(instruction, note)
            case Peak():
                return self._peak(instruction, note)
            case Gather():
                return self._gather(instruction, note)
            case Scatter():
                return self._scatter(instruction, note)
            case Mask():
                text = self._if(self._all([self._guard(g) for g in instruction.guards]), "1")
                return self._each(self._axes(instruction.target), [self._stored(instruction.target, text, note)])
        raise UsageError(f"no loop for {type(instruction).__name__} of {instruction.target.name!r}")

    def _each(self, indices: Sequence[Index], body: Sequence[str], simd: str = "") -> list[str]:
        """Return loops over indices around a body; without indices, the body alone."""
        if not indices:
            return list(body)
        lines: list[str] = []
        for depth, index in enumerate(indices):
            name, end = self._index(index), whole(index.size, {})
            if simd and depth == len(indices) - 1:
                lines.append(f"#pragma omp simd {simd}")
            lines.append(f"{_STEP * depth}for (Offset {name} = 0; {name} < {end}; ++{name}) {{")
        lines += [f"{_STEP * len(indices)}{line}" for line in body]
        return [*lines, *(f"{_STEP * depth}}}" for depth in reversed(range(len(indices))))]

    def _contraction(self, instruction: Contract, note: str) -> list[str]:
        target, total = instruction.target, f"{spelled(instruction.target.name)}_sum"
        factors = " * ".join(self._entry(o) for o in instruction.operands)
        summed = [i for i in instruction.summed if i != BATCH]
        if not summed and target.name in self._totals:
            return self._each(self._axes(target), [f"{self._place(target.entry)} += {factors};{note}"])
        inside = self._each(summed, [f"{total} += {factors};"], f"reduction(+ : {total})")
        if target.name in self._totals:
            end = f"{self._place(target.entry)} += {total};{note}"
        else:
            end = self._stored(target, total, note)
        opened = [f"Wide {total} = 0;", *inside, end]
        axes = self._axes(target)
        if not axes and target.name not in self._outside:
            return [f"Wide {total} = 0;", *inside, end]
        return self._each(axes, opened) if axes else ["{", *(_STEP + line for line in opened), "}"]

    def _peak(self, instruction: Peak, note: str) -> list[str]:
        target = instruction.target
        largest = f"{spelled(target.name)}_largest"
        entry = self._entry(instruction.operand)
        inside = self._each(instruction.summed, [f"{largest} = fmax({largest}, {entry});"])
        opened = [f"Wide {largest} = -infinity();", *inside, f"{self._assigned(target)} = {largest};{note}"]
        axes = self._axes(target)
        return opened if not axes and target.name not in self._outside else self._each(axes, opened) if axes else opened

    def _gather(self, instruction: Gather, note: str) -> list[str]:
        where, conditions = self._places(instruction.operand, instruction.positions)
        value = self._widened(name_of(instruction.operand), where)
        text = self._if(conditions, value) if conditions else value
        return self._each(self._axes(instruction.target), [self._stored(instruction.target, text, note)])

    def _scatter(self, instruction: Scatter, note: str) -> list[str]:
        target, operand = instruction.target, instruction.operand
        where, conditions = self._places(target.entry, instruction.positions)
        value = self._entry(operand)
        memory = self._memory_of(target.name)
        line = f"{memory}[{where}] += {value};{note}"
        added = self._each(
            [i for i in operand.indices if i != BATCH], [f"if ({conditions}) {line}" if conditions else line]
        )
        if target.name in self._totals:
            return added
        self._names = {}
        return [*self._each(self._axes(target), [f"{self._place(target.entry)} = 0;"]), *added]

    def _places(self, source: Indexed, positions: Sequence[Expr]) -> tuple[str, str]:
        """Return the offset of an entry at computed positions, and the conditions under which it is inside."""
        axes = self._program.values[name_of(source)].indices
        texts, conditions = [], []
        for position, axis in zip(positions, axes, strict=True):
            above, below = sympy.fraction(sympy.together(position))
            text = whole(sympy.expand(above), self._index_names(), self._integer)
            if below != 1:
                divisor = whole(below, {})
                conditions.append(f"({text}) % {divisor} == 0")
                text = f"({text}) {self.over} {divisor}"
            if not (below == 1 and isinstance(position, Index) and position.size == axis.size):
                conditions += [f"{grouped(text)} >= 0", f"{grouped(text)} < {whole(axis.size, {})}"]
            texts.append(grouped(text))
        return self._offset(name_of(source), axes, texts), self._all(conditions)

    def _index_names(self) -> _Indices:
        return _Indices(self)

    def _integer(self, entry: Indexed) -> str:
        name = name_of(entry)
        local = name not in self._outside and not self._axes(self._program.values[name])
        return f"Offset({spelled(name) if local else self._place(entry)})"

    def _guard(self, guard: Expr) -> str:
        first, second = guard.args
        names = self._index_names()
        if isinstance(guard, KroneckerDelta):
            scale = sympy.denom(sympy.together(first)) * sympy.denom(sympy.together(second))
            sides = (whole(sympy.expand(a * scale), names, self._integer) for a in (first, second))
            return "(" + " == ".join(map(grouped, sides)) + ")"
        if isinstance(guard, Divides):
            return f"({grouped(whole(second, names, self._integer))} % {grouped(whole(first, names))} == 0)"
        if isinstance(guard, AtMost):
            sides = (whole(a, names, self._integer) for a in guard.args)
            return "(" + " <= ".join(map(grouped, sides)) + ")"
        assert isinstance(guard, Within)
        above, below = sympy.fraction(sympy.together(first))
        text, limit = whole(sympy.expand(above), names, self._integer), whole(second, names)
        exact = [] if below == 1 else [f"({text}) % {whole(below, {})} == 0"]
        value = grouped(text) if below == 1 else f"(({text}) {self.over} {whole(below, {})})"
        return f"({self._all([*exact, f'{value} >= 0', f'{value} < {grouped(limit)}'])})"

    def _all(self, conditions: Sequence[str]) -> str:
        """Return the conjunction of conditions; "" if there are none."""
        return " && ".join(conditions)

    def _if(self, conditions: str, value: str) -> str:
        """Return a value if conditions hold, else zero."""
        return f"{conditions} ? {value} : 0"

    def _scalar(self, expression: Expr) -> str:
        lengths = {s: _length(s) for s in expression.free_symbols if _is_length(s) and not isinstance(s, Index)}
        return ScalarPrinter(self._entry, lengths).text(expression)

    def _entry(self, entry: Indexed) -> str:
        name = name_of(entry)
        if name not in self._outside and not self._axes(self._program.values[name]):
            return spelled(name)
        return (
            f"Wide({self._place(entry)})"
            if self._type(name) != "double" and name in self._outside
            else self._place(entry)
        )

    def _widened(self, name: str, where: str) -> str:
        """Return the entry of a value at an offset, converted to the wide type."""
        return f"Wide({self._memory_of(name)}[{where}])"

    def _stored(self, value: Value, text: str, note: str) -> str:
        """Return the line that assigns a value at its own indices."""
        return f"{self._assigned(value)} = {text};{note}"

    def _assigned(self, value: Value) -> str:
        """Return the left side of the assignment of a value at its own indices."""
        if value.name not in self._outside and not self._axes(value):
            return f"const Wide {spelled(value.name)}"
        return self._place(value.entry)

    def _memory_of(self, name: str) -> str:
        outside = name in self._outside and name not in self._totals
        return f"{spelled(name)}_data" if outside else spelled(name)

    def _place(self, entry: Indexed) -> str:
        name = name_of(entry)
        own = self._program.values[name].indices
        return f"{self._memory_of(name)}[{self._offset(name, own, [self._index(i) for i in entry.indices])}]"

    def _offset(self, name: str, axes: Sequence[Index], texts: Sequence[str]) -> str:
        """Return the offset of an entry in a contiguous tensor; thread-local memory has no batch axis."""
        held = name in self._outside and name not in self._totals
        pairs = [(a, t) for a, t in zip(axes, texts, strict=True) if held or a != BATCH]
        text = ""
        for axis, place in pairs:
            text = f"{grouped(text)} * {grouped(whole(axis.size, {}))} + {grouped(place)}" if text else place
        return text or "0"

    def _index(self, index: Expr) -> str:
        if index == BATCH:
            return "sample"
        assert isinstance(index, Index)
        return self._names.setdefault(index, f"i{len(self._names)}")


class _Indices(dict[Expr, str]):
    """The names of indices, assigned on first use."""

    def __init__(self, printer: LoopPrinter) -> None:
        super().__init__()
        self._printer = printer
        self.over, self.choice = printer.over, printer.choice

    def __contains__(self, key: object) -> bool:
        return isinstance(key, Index)

    def __getitem__(self, key: Expr) -> str:
        return self._printer._index(key)


def spelled(name: str) -> str:
    """Return the name of a value, setting or size in a kernel, changed if C++ or the kernel already uses it."""
    return f"{name}_" if _OWN.fullmatch(name) else identifier(name)


def _length(size: Symbol) -> str:
    return spelled(str(size)) if size != BATCH.size else "samples"


def _is_length(symbol: Expr) -> bool:
    return bool(symbol.is_Symbol and symbol.is_integer and not isinstance(symbol, Index))


def _free(instruction: Instruction) -> set[Any]:
    """Return the symbols of an instruction's expressions that are not tensors."""
    expressions: tuple[Expr, ...] = ()
    if isinstance(instruction, Pointwise):
        expressions = (instruction.expression,)
    elif isinstance(instruction, Gather | Scatter):
        expressions = instruction.positions
    elif isinstance(instruction, Mask):
        expressions = instruction.guards
    return {s for e in expressions for s in e.xreplace({x: sympy.S.One for x in e.atoms(Indexed)}).free_symbols}


def grouped(text: str) -> str:
    """Return a text in parentheses unless it is a name, a number, or in parentheses already."""
    return text if text.isidentifier() or text.isdigit() or _in_brackets(text) else f"({text})"


def _in_brackets(text: str) -> bool:
    """Return whether a text's opening parenthesis is closed by its last character."""
    depths = list(itertools.accumulate((c == "(") - (c == ")") for c in text))
    return text.startswith("(") and text.endswith(")") and 0 not in depths[:-1]


def whole(expression: Expr, names: Mapping[Expr, str], entry: Any = None) -> str:
    """Return the integer text of sums and products of indices, lengths and integer entries."""
    if expression in names:
        return names[expression]
    if isinstance(expression, Indexed) and entry is not None:
        return str(entry(expression))
    if expression.is_Integer:
        return str(expression)
    if _is_length(expression):
        return _length(expression)
    if isinstance(expression, Add):
        terms = sorted(expression.args, key=lambda t: (t.could_extract_minus_sign(), str(t)))
        text = whole(terms[0], names, entry)
        for term in terms[1:]:
            negative = term.could_extract_minus_sign()
            text += f" {'-' if negative else '+'} {whole(-term if negative else term, names, entry)}"
        return text
    if isinstance(expression, Mul) and all(not a.is_Pow or (a.exp.is_Integer and a.exp > 0) for a in expression.args):
        return " * ".join(grouped(whole(a, names, entry)) for a in expression.args)
    if expression.is_Pow and expression.exp.is_Integer and expression.exp > 0:
        return " * ".join([grouped(whole(expression.base, names, entry))] * int(expression.exp))
    inside = [grouped(whole(a, names, entry)) for a in expression.args]
    if isinstance(expression, Remainder | Quotient):
        value, divisor = inside
        rest = f"({value} % {divisor} + {divisor}) % {divisor}"  # C++ rounds towards zero
        over = getattr(names, "over", LoopPrinter.over)
        return rest if isinstance(expression, Remainder) else f"({value} - {rest}) {over} {divisor}"
    choice = str(getattr(names, "choice", LoopPrinter.choice))
    if isinstance(expression, sympy.Max | sympy.Min):
        sign = ">" if isinstance(expression, sympy.Max) else "<"
        return functools.reduce(lambda a, b: choice.format(f"{a} {sign} {b}", a, b), inside)
    if isinstance(expression, sympy.Abs):
        return choice.format(f"{inside[0]} < 0", f"-{inside[0]}", inside[0])
    raise UsageError(f"the index expression {expression} has no C++ text; use sums, products, // and %")
