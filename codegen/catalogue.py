"""What the shipped package contains: one row a layer, with its classes, their torch counterparts and options.

    layer              classes                      torch counterparts
    affine             AffineLike, NormLike         Linear
    convolutions       PatchNormConv1d/2d/3d ..     Conv1d/2d/3d ..
    attention          AffineLikeMultiheadAttention MultiheadAttention

A row names layers of ``derive``. The solver finds which maps cancel their divergence, and so decides which classes and
files there are. A special layer that the code of a general one computes is listed in the general layer's row: a
convolution without groups is a grouped one with one group, over any number of axes, and a projection of tokens is an
affine map of every token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from codegen.plans.patch_maps import PatchMap, maps_of, patch_layer
from codegen.plans.rows import plan
from codegen.plans.value_path import NAME
from codegen.printing.naming import Family, pascal
from derive.cancel import solve
from derive.forward_map import Layer
from derive.layers import layer, layer_names
from derive.record import CancellingMap

ROWS, PATCHES, VALUES, UNITS = "rows", "patches", "values", "units"


@dataclass(frozen=True)
class Row:
    """One layer of the package.

    Attributes:
        form: ``rows``, a matrix times each row; ``patches``, a kernel times each patch; ``values``, the value path of
            attention; ``units``, rows of unit length, which QK-norm makes of queries and keys.
        with_bias: the layer, with a bias if it can have one.
        without_bias: the same layer without a bias; None if it always or never has one.
        modules: its public modules; those of rows are named after their maps.
        functions: its public functions; those of rows are named after their maps.
        twins: the counterparts in ``torch.nn``: modules with the same arguments, parameters and state dicts.
        covers: pairs of a special layer that the same code computes and its general layer.
        centred: whether each patch is centred before it is measured.
        transposed: whether the convolution is a transposed one.
    """

    form: str
    with_bias: Callable[[], Layer]
    without_bias: Callable[[], Layer] | None = None
    modules: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()
    covers: tuple[tuple[str, str], ...] = ()
    centred: bool = False
    transposed: bool = False


def _over_axes(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.format(axes) for axes in (1, 2, 3))


def _special(word: str) -> tuple[tuple[str, str], ...]:
    """Return pairs of a convolution without groups (over two, one and three axes) and the grouped one."""
    return tuple((f"{word}convolution{axes}", f"grouped-{word}convolution") for axes in ("", "-1d", "-3d"))


CATALOGUE = (
    Row(
        form=ROWS,
        with_bias=partial(layer, "affine"),
        without_bias=partial(layer, "linear"),
        twins=("Linear",),
        covers=(("attention-projection", ""), ("attention-output", "")),
    ),
    Row(
        form=PATCHES,
        with_bias=patch_layer,
        without_bias=partial(patch_layer, with_bias=False),
        modules=_over_axes("PatchNormConv{}d"),
        functions=_over_axes("patch_norm_conv{}d"),
        twins=_over_axes("Conv{}d"),
        covers=_special(""),
    ),
    Row(
        form=PATCHES,
        with_bias=partial(patch_layer, centred=True),
        without_bias=partial(patch_layer, with_bias=False, centred=True),
        modules=_over_axes("PatchNormConv{}d"),
        functions=_over_axes("patch_norm_conv{}d"),
        centred=True,
    ),
    Row(
        form=PATCHES,
        with_bias=partial(patch_layer, transposed=True),
        without_bias=partial(patch_layer, with_bias=False, transposed=True),
        modules=_over_axes("PatchNormConvTranspose{}d"),
        functions=_over_axes("patch_norm_conv_transpose{}d"),
        twins=_over_axes("ConvTranspose{}d"),
        covers=_special("transposed-"),
        transposed=True,
    ),
    Row(
        form=VALUES,
        with_bias=partial(layer, "attention-value"),
        modules=(f"{pascal(NAME)}MultiheadAttention",),
        twins=("MultiheadAttention",),
    ),
    Row(form=UNITS, with_bias=partial(layer, "l2-norm")),
)


def families(with_bias: Iterable[CancellingMap], without_bias: Iterable[CancellingMap]) -> tuple[Family, ...]:
    """Pair maps of the layer with and without a bias that have the same name; sorted by name."""
    bare = {m.name: plan(m) for m in without_bias}
    found = [Family(m.name, plan(m), bare.get(m.name)) for m in with_bias]
    return tuple(sorted(found, key=lambda f: f.name))


def row_families() -> tuple[Family, ...]:
    """Derive the maps of rows, with and without a bias."""
    rows = [row for row in CATALOGUE if row.form == ROWS]
    return tuple(f for row in rows for f in families(*(solve(make()) for make in _layers(row))))


def row_layers() -> tuple[Layer, ...]:
    """Return the layers of the form ``rows``: with a bias, then without one."""
    return tuple(make() for row in CATALOGUE if row.form == ROWS for make in _layers(row))


def patch_maps() -> tuple[PatchMap, ...]:
    """Derive every map of a convolution over two axes of space, with and without a bias, centred, and transposed."""
    patches = [row for row in CATALOGUE if row.form == PATCHES]
    return tuple(m for bias in (True, False) for row in patches for m in maps_of(bias, row.centred, row.transposed))


def _layers(row: Row) -> tuple[Callable[[], Layer], Callable[[], Layer]]:
    """Return the layer with a bias, and without one."""
    assert row.without_bias is not None
    return row.with_bias, row.without_bias


def public_names(form: str, kind: str) -> tuple[str, ...]:
    """Return all ``modules``, ``functions`` or ``twins`` of a form, without repeats, in the catalogue's order."""
    return tuple(dict.fromkeys(name for row in CATALOGUE if row.form == form for name in getattr(row, kind)))


def has_companions(chosen: Sequence[Family]) -> bool:
    """Return whether a package of these families also gets attention, convolutions and conversion, which use them."""
    return NAME in {family.name for family in chosen} and direction(chosen) is not None


def direction(chosen: Sequence[Family]) -> Family | None:
    """Return the normalising family that needs no bias."""
    return next((f for f in chosen if f.kind == "normalising" and f.without_bias is not None), None)


def covered(derivations: Iterable[str]) -> dict[str, str]:
    """Return the maps of special layers that existing code computes, each with the map that the code was derived from.

    Args:
        derivations: the ids of what code was derived from, such as the map ``grouped-convolution/affine-like``.
    """
    known = set(derivations) - set(layer_names())  # maps only, not layers
    forms = {name.rpartition("/")[2] for name in known}
    general = [pair for row in CATALOGUE for pair in row.covers]
    pairs = {f"{special}/{form}": f"{home}/{form}".lstrip("/") for special, home in general for form in forms}
    return {special: home for special, home in sorted(pairs.items()) if home in known}
