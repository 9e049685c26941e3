"""Composition of layers: the output of one is the input of the next, and all their parameters are the parameters.

Sizes are joined where the tensors meet; every other name that both layers use is primed in words (``W`` becomes
``W_2``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import sympy
from sympy import Expr, IndexedBase, Symbol

from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexTensor, tensor
from derive.forward_map import BATCH, Definition, Layer, LayerError, Tensor


def compose(layers: Sequence[Layer]) -> Layer:
    """Return ``layers[0] > layers[1] > ...``; raise LayerError where shapes do not meet or an input is missing."""
    return reduce(_follow, layers)


def _follow(first: Layer, second: Layer) -> Layer:
    """Feed the output of ``first`` to the first real input of ``second``."""
    fed = next((t for t in second.inputs if t.values is None), None)
    if fed is None:
        raise LayerError(f"{second.name!r} has no real input to take the output of {first.name!r}")
    output_axes = tuple(i.size for i in first.output.indices)
    if len(output_axes) != len(fed.axes):
        raise LayerError(
            f"{first.name!r} gives {len(output_axes) - 1} axes a sample, {second.name!r} takes {len(fed.axes) - 1}: "
            "compose layers whose shapes meet"
        )
    joined = _joined(first, second, output_axes, fed.axes)
    renaming = _renaming(first, second, fed, joined)
    moved = renaming.layer(second)
    middle = Definition(renaming.tensors[fed.name], first.output.indices, first.output.expression)
    sizes = tuple(dict.fromkeys((*first.sizes, *(s for s in moved.sizes if s.is_Symbol))))
    return Layer(
        name=f"{first.name}>{second.name}",
        title=f"{first.title}, then {_in_sentence(second.title)}",
        sizes=sizes,
        inputs=(*first.inputs, *(t for t in moved.inputs if t.name != middle.name)),
        parameters=(*first.parameters, *moved.parameters),
        definitions=(*first.definitions, middle, *moved.definitions),
        output=moved.output,
        scalars=tuple(dict.fromkeys((*first.scalars, *moved.scalars))),
        notes=(*first.notes, *moved.notes),
    )


def _joined(first: Layer, second: Layer, given: Sequence[Expr], taken: Sequence[Expr]) -> dict[Expr, Expr]:
    """Return what each size of the second layer becomes; raise LayerError where one would become two."""
    joined: dict[Expr, Expr] = {}
    for a, b in zip(given, taken, strict=True):
        if joined.setdefault(b, a) != a or (b.is_Integer and a != b):
            shapes = [" x ".join(map(str, axes[1:])) for axes in (given, taken)]
            raise LayerError(
                f"{first.name!r} gives {shapes[0]} a sample, {second.name!r} takes {shapes[1]}: "
                "declare the axes that meet with the same size"
            )
    joined.pop(BATCH.size, None)
    return joined


def _in_sentence(title: str) -> str:
    """Return a title as it stands within a sentence: an acronym keeps its capitals."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


@dataclass(frozen=True)
class _Renaming:
    """New sizes and new tensor names for one layer."""

    sizes: dict[Expr, Expr]
    tensors: dict[str, str]

    def expression(self, expression: Expr) -> Expr:
        """Return the expression under the new names, indices running over the new sizes."""
        if isinstance(expression, Index):
            return Index(expression.name, self.size(expression.size), expression.tag)
        if isinstance(expression, IndexTensor):
            return tensor(self.name(str(expression.label)), values=self.size(expression.values))
        if isinstance(expression, IndexedBase):
            return tensor(self.name(str(expression.label)))
        if isinstance(expression, Symbol):
            return self.size(expression)
        if not expression.args:
            return expression
        return expression.func(*(self.expression(a) for a in expression.args))

    def size(self, size: Expr) -> Expr:
        """Return the new size."""
        return size.xreplace(self.sizes)

    def name(self, name: str) -> str:
        """Return the new name of a tensor."""
        return self.tensors.get(name, name)

    def definition(self, definition: Definition) -> Definition:
        """Return the definition under the new names."""
        indices = tuple(self.expression(i) for i in definition.indices)
        return Definition(self.name(definition.name), indices, self.expression(definition.expression))

    def declared(self, declared: Tensor) -> Tensor:
        """Return the declaration under the new names."""
        values = None if declared.values is None else self.size(declared.values)
        return Tensor(self.name(declared.name), tuple(self.size(a) for a in declared.axes), values)

    def layer(self, layer: Layer) -> Layer:
        """Return the layer under the new names."""
        return replace(
            layer,
            sizes=tuple(self.size(s) for s in layer.sizes),
            inputs=tuple(self.declared(t) for t in layer.inputs),
            parameters=tuple(self.declared(t) for t in layer.parameters),
            definitions=tuple(self.definition(d) for d in layer.definitions),
            output=self.definition(layer.output),
        )


def _renaming(first: Layer, second: Layer, fed: Tensor, joined: dict[Expr, Expr]) -> _Renaming:
    """Choose names for the second layer that meet none of the first."""
    taken = _names(first) | {str(s) for s in first.sizes}
    sizes: dict[Expr, Expr] = dict(joined)
    for size in second.sizes:
        if size not in sizes and size != BATCH.size and str(size) in taken:
            sizes[size] = _sibling(size, taken)
    tensors = {fed.name: first.output.name}
    for name in sorted(_names(second) - {fed.name}):
        if name in taken:
            tensors[name] = _free(name, taken | _names(second) | set(tensors.values()))
    return _Renaming(sizes, tensors)


def _names(layer: Layer) -> set[str]:
    declared = {t.name for t in (*layer.inputs, *layer.parameters)}
    return declared | {d.name for d in (*layer.definitions, layer.output)}


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else next(f"{name}_{k}" for k in range(2, 99) if f"{name}_{k}" not in taken)


def _sibling(size: Symbol, taken: set[str]) -> Symbol:
    """Return a size symbol with the same assumptions and a free name."""
    name = _free(str(size), taken)
    return size_symbol(name) if size.is_positive else sympy.Symbol(name, integer=True, nonnegative=True)
