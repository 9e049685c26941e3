"""Recognise convolutions independently of their names, to compile them like the shipped ones.

    y[n, f, t] = sum[i, h](A[f, i, h]*x[i, 2*t + h - 1]) + c[f]     is the convolution of ``derive.layers.convolution``
                                                                    at stride 2, dilation 1 and padding 1

The form has one real input, a filter, optionally a bias, and 1, 2 or 3 axes of space. Axes of groups, input channels or
output channels may be missing, and count as length 1. Axes may have any order. The role of each index is read off the
one sum of input and filter. The result is accepted only if the shipped layer, written with the layer's own names, sizes
and numbers, is proved equal to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sympy
from sympy import Add, Expr, Indexed, IndexedBase, Symbol

from codegen.ir.link import Link
from codegen.ir.program import name_of
from codegen.lower.links import Relations, relations
from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum
from derive.algebra.normal import normalise
from derive.forward_map import BATCH, Layer
from derive.layers.convolution import SPACE, convolution, transposed_convolution

_MOST_AXES = max(SPACE)
Places = tuple[int | None, ...]


@dataclass(frozen=True)
class Window:
    """The geometry of a filter along one axis of space: ``long = stride*position + dilation*kernel - padding``.

    ``length`` is the output's, which may omit positions or have some that read only zeros.
    """

    stride: Expr
    dilation: Expr
    padding: Expr
    length: Expr


@dataclass(frozen=True)
class PatchForm:
    """A layer's tensors as those of a convolution.

    ``order`` holds the positions of input, filter and bias among the layer's tensors. The other tuples map the axes of
    the shipped layout to a tensor's own axes after the batch, None for a missing one: groups, channels, space of the
    input and of the output; groups, output channels, input channels (these two swapped if ``transposed``), space of the
    filter; groups and output channels of the bias.
    """

    centred: bool
    transposed: bool
    order: tuple[int, ...]
    input_axes: Places
    kernel_axes: Places
    bias_axes: Places
    output_axes: Places
    windows: tuple[Window, ...]

    @property
    def with_bias(self) -> bool:
        """Whether there is a bias."""
        return len(self.order) > 2


@dataclass(frozen=True)
class _Roles:
    """The indices of a layer by their role; ``links`` in the order of the input's axes of space."""

    group: Index | None
    channel: Index | None
    unit: Index | None
    links: tuple[Link, ...]
    transposed: bool
    source: Indexed
    kernel: Indexed
    bias: Indexed | None


def patch_form(layer: Layer) -> PatchForm | None:
    """Return a layer's form as a convolution, or None if it is not of the form in the module docstring."""
    if len(layer.inputs) != 1 or layer.scalars or layer.inputs[0].values is not None:
        return None
    if not 1 <= len(layer.parameters) <= 2 or layer.inputs[0].axes[:1] != (BATCH.size,):
        return None
    own = expand_definitions(layer.output.expression, layer.scope)
    roles = _roles(layer, normalise(own))
    if roles is None:
        return None
    for centred in (False, True):
        if _same(layer, own, roles, centred):
            return _form(layer, roles, centred)
    return None


def _roles(layer: Layer, expression: Expr) -> _Roles | None:
    """Return the role of every index, read off the one sum of input and filter and the remaining term."""
    bases = {p.base for p in layer.parameters}
    terms = Add.make_args(expression)
    sums = [t for t in terms if isinstance(t, IndexedSum) and t.body.atoms(IndexedBase) & bases]
    offsets = [t for t in terms if isinstance(t, Indexed) and t.base in bases]
    if len(sums) != 1 or len(offsets) != len(layer.parameters) - 1:
        return None
    found = _related(layer, sums[0])
    entries = {f.base: f for f in found.factors if isinstance(f, Indexed)}
    source = entries.get(layer.inputs[0].base)
    kernels = [entry for base, entry in entries.items() if base in bases]
    if found.odd is not None or source is None or len(kernels) != 1 or len(found.factors) != 2:
        return None
    return _sorted_out(layer, found.links, source, kernels[0], offsets[0] if offsets else None)


def _related(layer: Layer, total: IndexedSum) -> Relations:
    axes = {t.name: t.axes for t in (*layer.inputs, *layer.parameters)}
    kernels = {axis for p in layer.parameters for axis in p.axes}
    return relations(total, lambda entry: axes[name_of(entry)], kernels)


def _sorted_out(
    layer: Layer, links: Sequence[Link], source: Indexed, kernel: Indexed, bias: Indexed | None
) -> _Roles | None:
    output = layer.output.indices
    found = [_turned(link, kernel) for link in links]
    transposed = all(link.long in output and link.position in source.indices for link in found)
    plain = all(link.long in source.indices and link.position in output for link in found)
    if not 1 <= len(found) <= _MOST_AXES or transposed == plain:
        return None
    if not all(link.kernel in kernel.indices and _is_fixed(link) for link in found):
        return None
    space = {i for link in found for i in link.indices}
    lists = [
        [i for i in indices if i != BATCH and i not in space] for indices in (source.indices, kernel.indices, output)
    ]
    inside, filters, outside = (set(chosen) for chosen in lists)
    groups, channels, units = inside & filters & outside, (inside & filters) - outside, (filters & outside) - inside
    if max(map(len, (groups, channels, units))) > 1 or inside | outside | filters != groups | channels | units:
        return None
    if bias is not None and {*bias.indices} != groups | units:
        return None
    place = list(source.indices).index
    found.sort(key=lambda link: place(link.position if transposed else link.long))
    one = [next(iter(chosen), None) for chosen in (groups, channels, units)]
    return _Roles(one[0], one[1], one[2], tuple(found), transposed, source, kernel, bias)


def _turned(link: Link, kernel: Indexed) -> Link:
    """Return a link whose position and filter index are told apart by the filter's indices."""
    if link.kernel in kernel.indices or link.position not in kernel.indices:
        return link
    return replace(link, position=link.kernel, kernel=link.position, stride=link.dilation, dilation=link.stride)


def _is_fixed(link: Link) -> bool:
    """Whether the numbers of a link are integers, and stride and dilation positive."""
    return bool(link.stride.is_positive and link.dilation.is_positive and link.padding.is_integer)


def _same(layer: Layer, own: Expr, roles: _Roles, centred: bool) -> bool:
    """Return whether the layer is proved equal to the shipped one written with the layer's names."""
    if centred and roles.transposed:
        return False
    axes, bias = len(roles.links), roles.bias is not None
    if roles.transposed:
        shipped = transposed_convolution(axes, grouped=True, bias=bias)
    else:
        shipped = convolution(axes, grouped=True, bias=bias, centred=centred)
    writer = _Writer(shipped, roles)
    return equal(writer.written(expand_definitions(shipped.output.expression, shipped.scope)), own)


class _Writer:
    """Writes expressions of a shipped convolution with the names, sizes and numbers of a layer from a file."""

    def __init__(self, shipped: Layer, roles: _Roles) -> None:
        self._roles = roles
        outputs, inputs = ("q", "p") if roles.transposed else ("p", "l")
        self._indices: dict[str, Index | None] = {
            "s": BATCH,
            "g": roles.group,
            "c": roles.channel,
            "o": roles.unit,
        }
        self._numbers: dict[str, Expr] = {"C": _size(roles.channel), "O": _size(roles.unit), "G": _size(roles.group)}
        for axis, link in zip(SPACE[len(roles.links)], roles.links, strict=True):
            ends = (link.position, link.long) if roles.transposed else (link.long, link.position)
            self._indices |= {f"k{axis}": link.kernel, f"{inputs}{axis}": ends[0], f"{outputs}{axis}": ends[1]}
            self._numbers |= {
                f"K{axis}": link.kernel.size,
                f"L{axis}": ends[0].size,
                f"{outputs.upper()}{axis}": ends[1].size,
                f"stride{axis}": link.stride,
                f"dilation{axis}": link.dilation,
                f"padding{axis}": link.padding,
            }
        second = (roles.channel, roles.unit) if roles.transposed else (roles.unit, roles.channel)
        ends_inside = [link.position if roles.transposed else link.long for link in roles.links]
        self._entries = {
            "x": (roles.source, (BATCH, roles.group, roles.channel, *ends_inside)),
            "W": (roles.kernel, (roles.group, *second, *(link.kernel for link in roles.links))),
            "b": (roles.bias, (roles.group, roles.unit)),
        }

    def written(self, expression: Expr, bound: Mapping[Index, Index | None] | None = None) -> Expr:
        """Return an expression with the layer's names; an axis that the layer lacks is omitted."""
        known = dict(bound or {})
        if isinstance(expression, IndexedSum):
            inner: dict[Index, Index | None] = {}
            for index in expression.bound:
                own = self._indices[index.name]
                inner[index] = None if own is None else own.fresh()
            body = self.written(expression.body, known | inner)
            return IndexedSum(body, *(i for i in inner.values() if i is not None))
        if isinstance(expression, Indexed):
            return self._entry(expression, known)
        if isinstance(expression, Index):
            found = known.get(expression, self._indices[expression.name])
            assert found is not None, expression
            return found
        if isinstance(expression, Symbol):
            return self._numbers[expression.name]
        if not expression.args:
            return expression
        return expression.func(*(self.written(a, known) for a in expression.args))

    def _entry(self, entry: Indexed, known: Mapping[Index, Index | None]) -> Expr:
        own, roles = self._entries[name_of(entry)]
        assert own is not None
        moved = {role: self.written(i, known) for i, role in zip(entry.indices, roles, strict=True) if role is not None}
        return own.base[tuple(moved[role] for role in own.indices)]


def _size(index: Index | None) -> Expr:
    return sympy.S.One if index is None else index.size


def _form(layer: Layer, roles: _Roles, centred: bool) -> PatchForm:
    place = {t.name: k for k, t in enumerate((*layer.inputs, *layer.parameters))}
    chosen = [e for e in (roles.source, roles.kernel, roles.bias) if e is not None]
    inside = [link.position if roles.transposed else link.long for link in roles.links]
    outside = [link.long if roles.transposed else link.position for link in roles.links]
    second = (roles.channel, roles.unit) if roles.transposed else (roles.unit, roles.channel)
    return PatchForm(
        centred=centred,
        transposed=roles.transposed,
        order=tuple(place[name_of(e)] for e in chosen),
        input_axes=_places((roles.group, roles.channel, *inside), roles.source.indices[1:]),
        kernel_axes=_places((roles.group, *second, *(link.kernel for link in roles.links)), roles.kernel.indices),
        bias_axes=() if roles.bias is None else _places((roles.group, roles.unit), roles.bias.indices),
        output_axes=_places((roles.group, roles.unit, *outside), layer.output.indices[1:]),
        windows=tuple(
            Window(link.stride, link.dilation, link.padding, out.size)
            for link, out in zip(roles.links, outside, strict=True)
        ),
    )


def _places(wanted: Sequence[Index | None], there: Sequence[Expr]) -> Places:
    return tuple(None if index is None else list(there).index(index) for index in wanted)
