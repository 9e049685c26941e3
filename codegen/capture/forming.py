"""Build the definitions of a layer while the operators of a program are read in order.

A tensor stays a function of its indices until an operator needs its entries as factors or arguments. Then it is
*settled*: it gets a name and a definition over indices of its own. Sums run over fresh indices, which are renamed to
letters when a definition is finished.
"""

from __future__ import annotations

import itertools
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
from sympy import Expr, Indexed, Symbol
from sympy.core.function import Application

from codegen.capture.values import ONE, ZERO, Grain, Indices, Value, combined, digits_of, finest, plain
from derive.algebra.eliminate import is_guard
from derive.algebra.index import Index
from derive.algebra.nodes import Binder, IndexedSum
from derive.forward_map import BATCH, Definition
from derive.names import LONGEST_NAME, RESERVED

_LETTERS = ("i", "j", "k", "l", "p", "q", "t", "u", "v", "a", "b", "c", "d", "e", "h", "r", "w", "y", "o", "m", "n")
_MOST_ENTRIES = 3
_MOST_OPERATIONS = 24


@dataclass
class Forming:
    """A layer under construction: its definitions so far, the names in use, and its sizes at one point."""

    sizes: Mapping[Symbol, int]
    taken: set[str] = field(default_factory=set)
    definitions: list[Definition] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    name: str = ""
    source: str = ""
    shape: Any = None

    def size(self, length: Expr) -> int:
        """Return the value of a length at that point."""
        return int(length.xreplace({s: sympy.Integer(v) for s, v in self.sizes.items()}))

    def free_name(self, wanted: str) -> str:
        """Return an unused name for a tensor, as close to ``wanted`` as possible, and reserve it."""
        stem = re.sub(r"[^A-Za-z0-9]+", "_", wanted).strip("_")
        stem = re.sub(r"^[^A-Za-z]+", "", stem)[: LONGEST_NAME - 4] or "u"
        if stem in RESERVED or keyword.iskeyword(stem):
            stem += "1"
        numbered = (f"{stem}_{k}" for k in itertools.count(2))
        name = next(n for n in itertools.chain([stem], numbered) if n not in self.taken)
        self.taken.add(name)
        return name

    def settle(self, value: Value, name: str = "") -> Value:
        """Return the tensor with a definition of its own; a settled one is returned unchanged."""
        if "entry" in value.settled:
            return value.settled["entry"]
        if is_entry(self.probe(value)):
            return value
        made = self.define(value, name or value.name or self.name)
        value.settled["entry"] = made
        return made

    def factor(self, value: Value) -> Value:
        """Return the tensor, settled unless its entries are short products that may be copied as factors."""
        if "entry" in value.settled:
            return value.settled["entry"]
        return value if all(map(is_factor, self.probes(value))) else self.settle(value)

    def define(self, value: Value, name: str) -> Value:
        """Give a tensor a definition over indices of its own."""
        indices: list[Index] = []
        positions: list[Expr] = []
        for length, grain in _axes(value):
            digits, position = self.axis_indices(length, grain, BATCH not in indices)
            indices += digits
            positions.append(position)
        place = indices.index(BATCH) if BATCH in indices else 0
        own = [*indices[place : place + 1], *indices[:place], *indices[place + 1 :]]
        definition = self.definition(name, own, value.at(tuple(positions)))
        grains = tuple(g if len(g) == 1 and g[0].offset == 0 else plain(n) for n, g in _axes(value))
        base = definition.base
        virtual = BATCH not in indices and definition.indices[0] == BATCH

        def at(i: Indices) -> Expr:
            """Return the entry of the intermediate."""
            found: list[Expr] = []
            for position, (length, grain) in zip(i, _axes_of(value.shape, grains), strict=True):
                factors = [f for f in grain[0].factors if f != 1]
                if length != 1 and factors:
                    found += digits_of(position, factors)
            found = [*found[place : place + 1], *found[:place], *found[place + 1 :]]
            return base[tuple([BATCH, *found] if virtual else found or [ZERO])]

        return Value(value.shape, at, grains, value.kind, value.support, definition.name)

    def definition(self, name: str, indices: Sequence[Index], expression: Expr) -> Definition:
        """Add a definition; the batch index comes first if the expression depends on it and ``indices`` lacks it."""
        own: tuple[Index, ...] = tuple(indices)
        if BATCH in expression.free_symbols and BATCH not in own:
            own = (BATCH, *own)
        if not own:
            own = (fresh(ONE),)
        made = lettered(Definition(self.free_name(name), own, expression), self.taken)
        self.definitions.append(made)
        self.sources[made.name] = self.source
        return made

    def axis_indices(self, length: Expr, grain: Grain, batch: bool = True) -> tuple[list[Index], Expr]:
        """Return the indices that run over an axis, one a factor, and the position that they form.

        With ``batch``, an axis of the batch's length gets the batch index.
        """
        if length == 1:
            return [], ZERO
        factors = [f for f in grain[0].factors if f != 1] if len(grain) == 1 and grain[0].offset == 0 else [length]
        digits = [BATCH if batch and f == BATCH.size else fresh(f) for f in factors]
        return digits, combined(digits, factors)

    def probe(self, value: Value) -> Expr:
        """Return the entry at fresh indices."""
        return value.at(tuple(self.axis_indices(n, g)[1] for n, g in _axes(value)))

    def probes(self, value: Value) -> Iterable[Expr]:
        """Yield for every combination of blocks the entry at fresh indices."""
        for pieces in itertools.product(*value.grains):
            places = []
            for length, piece in zip(value.shape, pieces, strict=True):
                factors = [f for f in piece.factors if f != 1]
                digits = [fresh(f) for f in factors]
                places.append(ZERO if length == 1 else sympy.expand(piece.offset + combined(digits, factors)))
            yield value.at(tuple(places))

    def contract(self, operands: Sequence[tuple[Value, Sequence[str]]], output: Sequence[str]) -> Value:
        """Return the sum of products over every label that is not in the output (labels name axes, as in einsum)."""
        factors = [(self.factor(value), tuple(labels)) for value, labels in operands]
        lengths: dict[str, Expr] = {}
        grains: dict[str, list[Grain]] = {}
        for value, labels in factors:
            for label, length, grain in zip(labels, value.shape, value.grains, strict=True):
                if length != 1 or label not in lengths:
                    lengths[label] = length
                if length != 1:
                    grains.setdefault(label, []).append(grain)
        summed = [label for label in lengths if label not in output]

        def at(indices: Indices) -> Expr:
            """Return the entry: the sum over every block of the summed axes."""
            free = dict(zip(output, indices, strict=True))
            return self.over(
                [(lengths[x], finest(grains.get(x, [plain(ONE)]))) for x in summed],
                lambda bound: sympy.Mul(
                    *(_read(v, labels, {**free, **dict(zip(summed, bound, strict=True))}) for v, labels in factors)
                ),
            )

        shape = tuple(lengths[x] for x in output)
        return Value(shape, at, tuple(finest(grains.get(x, [plain(lengths[x])])) for x in output))

    def over(self, axes: Sequence[tuple[Expr, Grain]], body: object) -> Expr:
        """Return the sum of ``body(positions)`` over axes, block by block."""
        total: Expr = ZERO
        for pieces in itertools.product(*(grain for _, grain in axes)):
            bound: list[Index] = []
            positions: list[Expr] = []
            for (length, _), piece in zip(axes, pieces, strict=True):
                factors = [f for f in piece.factors if f != 1]
                digits = [] if length == 1 else [fresh(f) for f in factors]
                bound += digits
                positions.append(ZERO if length == 1 else sympy.expand(piece.offset + combined(digits, factors)))
            total += IndexedSum(body(tuple(positions)), *bound)  # type: ignore[operator]
        return total


def _axes(value: Value) -> list[tuple[Expr, Grain]]:
    return _axes_of(value.shape, value.grains)


def _axes_of(shape: Sequence[Expr], grains: Sequence[Grain]) -> list[tuple[Expr, Grain]]:
    return list(zip(shape, grains, strict=True))


def _read(value: Value, labels: Sequence[str], places: Mapping[str, Expr]) -> Expr:
    return value.at(tuple(ZERO if n == 1 else places[x] for x, n in zip(labels, value.shape, strict=True)))


def fresh(length: Expr) -> Index:
    """Return an index over an axis that occurs nowhere else."""
    return Index("j", length).fresh()


def is_entry(expression: Expr) -> bool:
    """Return whether an expression is one tensor entry or a number, possibly times guards."""
    factors = [f for f in sympy.Mul.make_args(expression) if not is_guard(f)]
    entries = [f for f in factors if f.atoms(Indexed)]
    return (len(entries) <= 1 and all(isinstance(f, Indexed) for f in entries) and not expression.has(sympy.Add)) or (
        expression.is_Add and not expression.atoms(Indexed)
    )


def is_factor(expression: Expr) -> bool:
    """Return whether an expression is a short product of entries, numbers and guards, without a sum or a function."""
    if not expression.atoms(Indexed):
        return expression.count_ops() <= _MOST_OPERATIONS
    entries = 0
    for factor in sympy.Mul.make_args(expression):
        if isinstance(factor, Indexed):
            entries += 1
        elif not is_guard(factor) and factor.atoms(Indexed):
            return False
    return entries <= _MOST_ENTRIES


def is_short(expression: Expr) -> bool:
    """Return whether an expression may be written twice: it holds no sum and no function of an entry."""
    functions = [f for f in expression.atoms(Application) if not is_guard(f) and f.atoms(Indexed)]
    return not expression.atoms(Binder) and not functions and len(expression.atoms(Indexed)) <= 1


def lettered(definition: Definition, taken: Iterable[str]) -> Definition:
    """Return the definition with an unused letter for each fresh index."""
    used = set(taken)
    letters = (x for x in (*_LETTERS, *(f"{a}{k}" for k in range(1, 20) for a in _LETTERS)) if x not in used)
    names: dict[Expr, Expr] = {}
    for index in (*definition.indices, *_bound(definition.expression)):
        if isinstance(index, Index) and index.tag > 0 and index not in names:
            names[index] = Index(next(letters), index.size)
    indices = tuple(names.get(i, i) for i in definition.indices)
    return replace(definition, indices=indices, expression=definition.expression.xreplace(names))


def _bound(expression: Expr) -> list[Index]:
    """Return the bound indices of every sum in an expression, outer ones first."""
    found: list[Index] = []
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, Binder):
            found += part.bound
    return found
