"""Composition of layers: the output of one is the input of the next, and all their parameters are the parameters.

Where the tensors connect, their sizes become one; every other name that both layers use gets a suffix (``W`` becomes
``W_2``). A link may be a pointwise function by its name (``affine>tanh>affine``). An output of several axes is
flattened for a layer that takes one. ``residual`` adds a layer's input to its output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import sympy
from sympy import Expr, IndexedBase, Mul, Symbol

from derive.algebra.index import Index, Quotient, Remainder, size_symbol
from derive.algebra.named import DEFINITIONS, named
from derive.algebra.nodes import IndexTensor, tensor
from derive.forward_map import BATCH, Definition, Group, Layer, LayerError, Tensor

ACTIVATIONS: Mapping[str, Callable[[Expr], Expr]] = {
    **{name: named(name) for name in DEFINITIONS},
    **{f.__name__: f for f in (sympy.tanh, sympy.sin, sympy.cos, sympy.exp)},
}
"""The functions that can be a link, by name."""


def compose(links: Sequence[Layer | str]) -> Layer:
    """Return ``links[0] > links[1] > ...``; raise LayerError if shapes do not match or an input is missing."""
    first = links[0] if isinstance(links[0], Layer) else _of_one_axis(links[0])
    return reduce(_follow, links[1:], first)


def residual(layer: Layer) -> Layer:
    """Return ``x + layer``; the sizes of the output become those of the input, where they are not numbers."""
    fed = next((t for t in layer.inputs if t.values is None), None)
    given = tuple(i.size for i in layer.output.indices)
    if fed is None or len(fed.axes) != len(given):
        raise LayerError(f"x + ({layer.name}): input and output do not have the same axes, so they cannot be added")
    sizes: dict[Expr, Expr] = {}
    for taken, made in zip(fed.axes, given, strict=True):
        if made != taken and not (made.is_Symbol and sizes.setdefault(made, taken) == taken):
            raise LayerError(f"x + ({layer.name}): an axis of {made} cannot be added to one of {taken}")
    moved = _Renaming(sizes, {}).layer(layer)
    total = moved.output.expression + tensor(fed.name)[moved.output.indices]
    sizes_left = tuple(dict.fromkeys(s for s in moved.sizes if s.is_Symbol))
    title = f"{layer.title}, added to its input"
    return replace(moved.with_output(total), name=f"x + ({layer.name})", title=title, sizes=sizes_left)


def only(layer: Layer, number: int) -> Layer:
    """Return a composition in which only part ``number`` learns, counted from 1 among the parts with parameters.

    For a layer that consists of parts, such as a file with several outputs, return the part itself.
    """
    if layer.parts and 1 <= number <= len(layer.parts):
        return layer.parts[number - 1]
    if not 1 <= number <= len(layer.groups):
        known = [part.name for part in layer.parts] or [group.name for group in layer.groups]
        names = ", ".join(f"{k} ({name})" for k, name in enumerate(known, 1)) or "none"
        raise LayerError(f"{layer.name!r} has no part {number} with parameters; its parts are: {names}")
    own = layer.groups[number - 1].parameters
    learned = tuple(p for p in layer.parameters if p.name in own)
    given = tuple(p for p in layer.parameters if p.name not in own)
    name = f"{layer.name}/of-{number}"
    return replace(layer, name=name, parameters=learned, inputs=(*layer.inputs, *given), groups=())


def _of_one_axis(function: str) -> Layer:
    """Return a pointwise function as a layer of its own, on vectors."""
    j, n = Index("j", size_symbol("n")), size_symbol("n")
    output = Definition("y", (BATCH, j), ACTIVATIONS[function](tensor("x")[BATCH, j]))
    inputs = (Tensor("x", (BATCH.size, n)),)
    return Layer(function, function, (BATCH.size, n), inputs, (), (), output)


def _activated(layer: Layer, function: str) -> Layer:
    """Apply a pointwise function to the output."""
    output = layer.output
    name = _free("a", _names(layer) | {str(s) for s in layer.sizes})
    applied = Definition(name, output.indices, ACTIVATIONS[function](output.entry))
    title = f"{layer.title}, then {function}"
    definitions = (*layer.definitions, output)
    groups = _groups(layer)
    return replace(
        layer, name=f"{layer.name}>{function}", title=title, definitions=definitions, output=applied, groups=groups
    )


def _groups(layer: Layer) -> tuple[Group, ...]:
    """Return the parts of a composition, or the layer as the only one."""
    if layer.groups or not layer.parameters:
        return layer.groups
    return (Group(layer.name, tuple(p.name for p in layer.parameters)),)


def _flattened(layer: Layer) -> Layer:
    """Return the layer with its output flattened to one axis, the last axis fastest."""
    axes = layer.output.indices[1:]
    flat, inner, places = Index("f", Mul(*(i.size for i in axes))), sympy.S.One, list[Expr]()
    for index in reversed(axes):
        place = Quotient(flat, inner)
        places.append(place if index is axes[0] else Remainder(place, index.size))
        inner *= index.size
    entry = layer.output.base[(BATCH, *reversed(places))]
    name = _free("flat", _names(layer) | {str(s) for s in layer.sizes})
    output = Definition(name, (BATCH, flat), entry)
    return replace(layer, definitions=(*layer.definitions, layer.output), output=output)


def _follow(first: Layer, second: Layer | str) -> Layer:
    """Feed the output of ``first`` to the first real input of ``second``, or to a function by its name."""
    if isinstance(second, str):
        return _activated(first, second)
    fed = next((t for t in second.inputs if t.values is None), None)
    if fed is None:
        raise LayerError(f"{second.name!r} has no real input to take the output of {first.name!r}")
    groups = _groups(first)
    if len(fed.axes) == 2 < len(first.output.indices):
        first = _flattened(first)
    output_axes = tuple(i.size for i in first.output.indices)
    if len(output_axes) != len(fed.axes):
        raise LayerError(
            f"{first.name!r} has an output of {len(output_axes) - 1} axes, {second.name!r} takes an input of "
            f"{len(fed.axes) - 1}: compose layers whose shapes match"
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
        groups=(*groups, *renaming.groups(second, middle.name)),
    )


def _joined(first: Layer, second: Layer, given: Sequence[Expr], taken: Sequence[Expr]) -> dict[Expr, Expr]:
    """Return the new size of each axis of the second layer; raise LayerError where one size would get two values."""
    joined: dict[Expr, Expr] = {}
    for a, b in zip(given, taken, strict=True):
        if joined.setdefault(b, a) != a or (b.is_Integer and a != b):
            shapes = [" x ".join(map(str, axes[1:])) for axes in (given, taken)]
            raise LayerError(
                f"{first.name!r} gives {shapes[0]} a sample, {second.name!r} takes {shapes[1]}: "
                "declare the same size for the axes that connect"
            )
    joined.pop(BATCH.size, None)
    return joined


def _in_sentence(title: str) -> str:
    """Return a title for use within a sentence: an acronym keeps its capitals."""
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

    def groups(self, layer: Layer, fed: str) -> tuple[Group, ...]:
        """Return the parts under the new names; a part without a feeding intermediate of its own is fed by ``fed``."""
        return tuple(
            Group(g.name, tuple(self.name(p) for p in g.parameters), self.name(g.fed) if g.fed else fed)
            for g in _groups(layer)
        )

    def layer(self, layer: Layer) -> Layer:
        """Return the layer under the new names."""
        return replace(
            layer,
            sizes=tuple(self.size(s) for s in layer.sizes),
            inputs=tuple(self.declared(t) for t in layer.inputs),
            parameters=tuple(self.declared(t) for t in layer.parameters),
            definitions=tuple(self.definition(d) for d in layer.definitions),
            output=self.definition(layer.output),
            groups=tuple(
                Group(g.name, tuple(map(self.name, g.parameters)), self.name(g.fed) if g.fed else "")
                for g in layer.groups
            ),
        )


def _renaming(first: Layer, second: Layer, fed: Tensor, joined: dict[Expr, Expr]) -> _Renaming:
    """Choose names for the second layer that do not occur in the first."""
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
