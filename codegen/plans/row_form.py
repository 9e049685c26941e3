"""Recognise layers of one matrix independently of their names, to compile them like the shipped affine layer.

    q[k] = sum[h](A[k, h]*y[h]) + c[k]     becomes     z[i] = sum[j](W[i, j]*x[j]) + b[i]

The form has one real input, a matrix and optionally a vector. The summed axes of the input are merged into one, and so
are the output's axes that the matrix has; any other axis of input and output, such as tokens, counts as samples. Names,
sizes and indices are replaced by the shipped layer's, so that an equal map gives an equal program, and equal kernels in
each target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sympy import Expr, Indexed, IndexedBase, Symbol

from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, tensor
from derive.errors import UsageError
from derive.forward_map import BATCH, Definition, Layer, Tensor

_INPUT, _MATRIX, _VECTOR, _OUTPUT = "x", "W", "b", "z"
_COLUMN, _ROW = Index("j", size_symbol("n")), Index("i", size_symbol("m"))
_AXES = {
    _INPUT: (BATCH, _COLUMN),
    _MATRIX: (_ROW, _COLUMN),
    _VECTOR: (_ROW,),
}


@dataclass(frozen=True)
class RowLayout:
    """The positions of sample, summed and unit axes in a layer's tensors.

    ``x``: sample axes, then summed axes (positions after the batch); ``weight``: unit axes, then summed axes; ``bias``:
    unit axes; ``z``: sample axes, then unit axes. ``samples`` and ``units`` are the lengths of these axes.
    """

    x: tuple[int, ...]
    weight: tuple[int, ...]
    bias: tuple[int, ...]
    z: tuple[int, ...]
    samples: tuple[Expr, ...]
    units: tuple[Expr, ...]


@dataclass(frozen=True)
class RowForm:
    """A layer under canonical names; ``order`` holds the positions of its tensors among the layer's, input first.

    ``layout`` is None if the tensors already are rows and a matrix; ``sizes`` maps canonical sizes to the layer's own,
    as far as they are single axes.
    """

    layer: Layer
    order: tuple[int, ...]
    layout: RowLayout | None
    sizes: Mapping[Expr, Expr]

    def with_sizes(self, angle: Expr | None) -> Expr | None:
        """Return an angle in canonical sizes; raise ``UsageError`` if it uses a size other than n."""
        if angle is None:
            return None
        used = {s for s in angle.free_symbols if s.is_integer}
        if any(self.sizes.get(s) != _COLUMN.size for s in used):
            raise UsageError(
                f"the angle {angle} uses a size that is not the length of a row; use only the length of a row"
            )
        return angle.xreplace(dict(self.sizes))


@dataclass(frozen=True)
class _Roles:
    """The entries of input, matrix and vector, and the indices by their role."""

    source: Indexed
    matrix: Indexed
    vector: Indexed | None
    samples: tuple[Index, ...]
    units: tuple[Index, ...]
    summed: tuple[Index, ...]

    @property
    def entries(self) -> dict[str, Indexed]:
        """The entries by their canonical names."""
        known = {_INPUT: self.source, _MATRIX: self.matrix}
        return known if self.vector is None else {**known, _VECTOR: self.vector}

    @property
    def sizes(self) -> dict[Expr, Expr]:
        """The canonical size of each of the layer's sizes that is a single axis and distinct."""
        known = ((self.summed, _COLUMN), (self.units, _ROW))
        pairs = [(axes[0].size, role.size) for axes, role in known if len(axes) == 1]
        alike = len(pairs) == 2 and pairs[0][0] == pairs[1][0]
        return {} if alike else {own: role for own, role in pairs if isinstance(own, Symbol)}


def row_form(layer: Layer) -> RowForm | None:
    """Return a layer under canonical names, or None if it is not of the form in the module docstring."""
    if len(layer.inputs) != 1 or layer.definitions or layer.scalars or layer.inputs[0].values is not None:
        return None
    roles = _roles(layer)
    if roles is None:
        return None
    try:
        expression = _written(layer.output.expression, roles)
    except KeyError:  # a size that is not the length of a row or column
        return None
    tensors = [Tensor(name, tuple(i.size for i in _AXES[name])) for name in roles.entries]
    canonical = replace(
        layer,
        sizes=(BATCH.size, _COLUMN.size, _ROW.size),
        inputs=(tensors[0],),
        parameters=tuple(tensors[1:]),
        output=Definition(_OUTPUT, (BATCH, _ROW), expression),
    )
    place = {t.base: k for k, t in enumerate((*layer.inputs, *layer.parameters))}
    order = tuple(place[e.base] for e in roles.entries.values())
    return RowForm(canonical, order, _layout(layer, roles), roles.sizes)


def _roles(layer: Layer) -> _Roles | None:
    """Return the roles in a layer that reads each tensor with one set of indices; None for any other layer."""
    expression, output = layer.output.expression, layer.output.indices
    entries: dict[IndexedBase, Indexed] = {}
    for entry in expression.atoms(Indexed):
        plain = all(isinstance(i, Index) for i in entry.indices) and len({*entry.indices}) == len(entry.indices)
        if not plain or entries.setdefault(entry.base, entry) != entry:
            return None
    summed = {i for total in expression.atoms(IndexedSum) for i in total.bound}
    source = entries.pop(layer.inputs[0].base)
    matrices = [e for e in entries.values() if summed <= {*e.indices}]
    vectors = [e for e in entries.values() if e not in matrices]
    if not summed or len(matrices) != 1 or len(vectors) > 1:
        return None
    (matrix,) = matrices
    units = tuple(i for i in matrix.indices if i not in summed)
    samples = tuple(i for i in source.indices[1:] if i not in summed)
    fits = [
        source.indices[0] == BATCH and summed <= {*source.indices},
        len(units) > 0 and {BATCH, *samples, *units} == {*output},
        not {*samples} & {*units} and len(output) == 1 + len(samples) + len(units),
        all({*v.indices} == {*units} for v in vectors),
        all({*total.bound} == summed for total in expression.atoms(IndexedSum)),
    ]
    if not all(fits):
        return None
    columns = tuple(i for i in matrix.indices if i in summed)
    return _Roles(source, matrix, vectors[0] if vectors else None, samples, units, columns)


def _written(expression: Expr, roles: _Roles) -> Expr:
    """Return an expression with canonical names; raise ``KeyError`` for a size without one."""
    if isinstance(expression, IndexedSum):
        return IndexedSum(_written(expression.body, roles), _COLUMN)
    if isinstance(expression, Indexed):
        name = next(name for name, entry in roles.entries.items() if entry == expression)
        return tensor(name)[_AXES[name]]
    if isinstance(expression, Symbol):
        return roles.sizes[expression]
    if not expression.args:
        return expression
    return expression.func(*(_written(a, roles) for a in expression.args))


def _layout(layer: Layer, roles: _Roles) -> RowLayout | None:
    """Return the positions of the axes, or None if the tensors already are rows and a matrix."""
    samples, units, summed = roles.samples, roles.units, roles.summed
    found = RowLayout(
        x=_places((*samples, *summed), roles.source.indices[1:]),
        weight=_places((*units, *summed), roles.matrix.indices),
        bias=() if roles.vector is None else _places(units, roles.vector.indices),
        z=_places((*samples, *units), layer.output.indices[1:]),
        samples=tuple(i.size for i in samples),
        units=tuple(i.size for i in units),
    )
    return None if not samples and found.weight == (0, 1) and len(units) == 1 else found


def _places(wanted: Sequence[Index], there: Sequence[Expr]) -> tuple[int, ...]:
    return tuple(list(there).index(index) for index in wanted)
