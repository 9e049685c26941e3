"""Layers of one matrix: recognised whatever their names, and compiled as the shipped affine layer is.

    q[k] = sum[h](A[k, h]*y[h]) + c[k]     becomes     z[i] = sum[j](W[i, j]*x[j]) + b[i]

The form has one real input (n), a matrix (m, n), perhaps a vector (m), and an output (m). Names, sizes and indices are
replaced by those that the shipped layer has: an equal map gives an equal program, and equal kernels in each target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy
from sympy import Expr, Indexed, Symbol

from codegen.lower.safe_names import with_names
from derive.algebra.index import Index, size_symbol
from derive.forward_map import BATCH, Layer, Tensor

_INPUT, _MATRIX, _VECTOR, _OUTPUT = "x", "W", "b", "z"
_SIZES = ("n", "m")
_INDICES = ("j", "i")


@dataclass(frozen=True)
class RowForm:
    """A layer under canonical names; ``order`` holds the places of its tensors among the layer's own, input first."""

    layer: Layer
    order: tuple[int, ...]


def row_form(layer: Layer) -> RowForm | None:
    """Return a layer under canonical names, or None if it is not of the form that the head of this file states."""
    if len(layer.inputs) != 1 or layer.definitions or layer.scalars or layer.inputs[0].values is not None:
        return None
    (source,), ranks = layer.inputs, {len(p.axes): p for p in layer.parameters}
    matrix, vector = ranks.get(2), ranks.get(1)
    if matrix is None or len(layer.parameters) != 1 + (vector is not None) or len(source.axes) != 2:
        return None
    n, m = source.axes[1], matrix.axes[0]
    shapes = [source.axes == (BATCH.size, n), matrix.axes == (m, n), vector is None or vector.axes == (m,)]
    plain = isinstance(n, Symbol) and isinstance(m, Symbol) and n != m and set(layer.sizes) <= {n, m, BATCH.size}
    if not (all(shapes) and plain and [i.size for i in layer.output.indices] == [BATCH.size, m]):
        return None
    chosen = [source, matrix, *([vector] if vector is not None else [])]
    expression = _canonical(layer.output.expression, layer, (n, m))
    if expression is None:
        return None
    place = {t.name: k for k, t in enumerate((*layer.inputs, *layer.parameters))}
    return RowForm(_renamed(layer, chosen, expression), tuple(place[t.name] for t in chosen))


def _canonical(expression: Expr, layer: Layer, sizes: tuple[Expr, Expr]) -> Expr | None:
    """Return the output's expression with canonical indices; None if it reads an entry at a computed position."""
    if any(not isinstance(i, Index) for e in expression.atoms(Indexed) for i in e.indices):
        return None
    unit = layer.output.indices[1]
    known = {BATCH: BATCH, unit: Index(_INDICES[1], size_symbol(_SIZES[1]))}
    for index in sorted(expression.atoms(Index) - {BATCH, unit}, key=Index.sort_key):
        if index.size != sizes[0] or Index(_INDICES[0], size_symbol(_SIZES[0])) in known.values():
            return None
        known[index] = Index(_INDICES[0], size_symbol(_SIZES[0]))
    lengths = {old: size_symbol(new) for old, new in zip(sizes, _SIZES, strict=True)}
    return sympy.sympify(expression.xreplace({**known, **lengths}))


def _renamed(layer: Layer, chosen: list[Tensor], expression: Expr) -> Layer:
    """Return the layer with the names, sizes and indices of the shipped one."""
    n, m = (size_symbol(name) for name in _SIZES)
    axes = dict(zip((_INPUT, _MATRIX, _VECTOR), ((BATCH.size, n), (m, n), (m,)), strict=True))
    names = {t.name: new for t, new in zip(chosen, axes, strict=False)} | {layer.output.name: _OUTPUT}
    output = replace(layer.output, indices=(BATCH, Index(_INDICES[1], m)), expression=expression)
    moved = with_names(replace(layer, output=output), names)
    tensors = [Tensor(names[t.name], axes[names[t.name]]) for t in chosen]
    return replace(
        moved,
        sizes=(BATCH.size, n, m),
        inputs=(tensors[0],),
        parameters=tuple(tensors[1:]),
    )
