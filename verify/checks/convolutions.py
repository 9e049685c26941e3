"""Subjects for convolutions: torch's own, and PatchNorm over one, two and three spatial axes, plain and transposed.

A convolution over one axis is checked with the derivation for two axes, the second of length one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

import derive
from derive.layers.convolution import convolution, transposed_convolution
from verify.checks import references, target
from verify.checks.cases import Case, Draw, Laid, Place, Source, Subject
from verify.checks.geometry import LETTERS, Geometry, draw_geometry
from verify.derived import derived

_PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TURNED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_AXES = {"convolution": 2, "convolution-1d": 1, "convolution-3d": 3, "grouped-convolution": 2}
_AXES |= {"transposed-convolution": 2, "transposed-convolution-1d": 1, "transposed-convolution-3d": 3}
LAYERS = tuple(_AXES)


@dataclass(frozen=True)
class Kind:
    """A generated convolution: its spatial axes, its form, and its settings."""

    axes: int
    form: str
    transposed: bool = False
    centred: bool = False
    biased: bool = True
    backend: str = "torch"

    @property
    def derivation_axes(self) -> int:
        """The number of spatial axes of the derivation."""
        return max(2, self.axes)

    @property
    def layer_name(self) -> str:
        """The layer's name in the generator."""
        stem = "grouped-transposed" if self.transposed else "centred" if self.centred else "grouped"
        return f"{stem}-convolution{'' if self.biased else '-without-bias'}"

    @property
    def by(self) -> tuple[str, ...]:
        """The names of the input and the parameters in the derivation."""
        return ("x", "W", "b") if self.biased else ("x", "W")


def subjects(layer: str) -> list[Subject]:
    """Return the subjects of a convolution layer: torch's own, and every generated map over as many axes."""
    plain = _torch(layer, _AXES[layer])
    if layer == "grouped-convolution":
        return [plain]
    transposed = layer.startswith("transposed")
    kinds = [
        Kind(_AXES[layer], form, transposed, centred, biased)
        for centred in ((False,) if transposed else (False, True))
        for form, biased in (("affine-like", True), ("norm-like", True), ("norm-like", False))
    ]
    kinds += [replace(kind, backend="cpp") for kind in kinds]
    return [plain, *(_generated(layer, kind) for kind in kinds)]


def _torch(layer: str, axes: int) -> Subject:
    transposed, grouped = layer.startswith("transposed"), layer.startswith("grouped")

    def draw(random: Draw, kappa: float) -> Case:
        """Return torch's layer at a random geometry."""
        g = draw_geometry(random, axes, transposed=transposed, seen=False, channels=1, grouped=grouped)
        module = _build((_TURNED if transposed else _PLAIN)[axes], g, {})
        return _case(random, module, g, LETTERS[axes], {}, grouped)

    return Subject(
        layer,
        layer,
        lambda: Source(derived(layer).layer),
        draw,
        backend="torch.nn",
        factor=partial(_stated, grouped=grouped),
    )


def _generated(layer: str, kind: Kind) -> Subject:
    letters = LETTERS[kind.derivation_axes]

    def draw(random: Draw, kappa: float) -> Case:
        """Return the generated layer at a random geometry that its backend supports."""
        singular = kind.form == "norm-like"  # undefined where a patch is all zeros
        channels = 3 if kind.centred else 2 if singular else 1
        grouped = kind.backend == "torch"  # the other backends' kernels do not support groups
        g = draw_geometry(
            random, kind.axes, transposed=kind.transposed, seen=singular, channels=channels, grouped=grouped
        )
        settings: dict[str, object] = {"form": kind.form, "kappa": kappa, "bias": kind.biased, "backend": kind.backend}
        if not kind.transposed:
            settings |= {"center": kind.centred, "recompute": bool(random.whole(0, 1))}
        name = f"PatchNormConv{'Transpose' if kind.transposed else ''}{kind.axes}d"
        module = _build(getattr(target.package(), name), g, settings)
        return _case(random, module, g, letters, {"kappa": kappa}, True)

    def reference(tensors: Mapping[str, Tensor], case: Case) -> Tensor:
        return _reference(tensors, case, kind)

    return Subject(
        name=f"{kind.layer_name}/{kind.form}",
        layer=layer,
        source=lambda: _solved(kind),
        draw=draw,
        variant=f"{kind.axes}d" if kind.backend == "torch" else f"{kind.axes}d/{kind.backend}",
        backend=kind.backend,
        derived_over=f"{kind.derivation_axes}d",
        form=kind.form,
        reference=reference,
        by=kind.by,
        factor=partial(_stated, grouped=True) if kind.backend == "torch" else None,
        without_onednn=("bfloat16",),
    )


def _solved(kind: Kind) -> Source:
    """Return the derivation for a kind; it is shared by all targets, and by one and two spatial axes."""
    return _source(kind.derivation_axes, kind.layer_name, kind.form, kind.transposed, kind.centred, kind.biased)


@cache
def _source(axes: int, name: str, form: str, transposed: bool, centred: bool, biased: bool) -> Source:
    """Derive and solve a layer as the package's generator does, over the axes of the derivation."""
    found = _solutions(axes, name, transposed, centred, biased)[form]
    return Source(found.mapped, found)


@cache
def _solutions(axes: int, name: str, transposed: bool, centred: bool, biased: bool) -> Any:
    if transposed:
        layer = transposed_convolution(axes, grouped=True, bias=biased, name=name)
    else:
        layer = convolution(axes, grouped=True, bias=biased, centred=centred, name=name)
    return derive.solve(layer)


def _build(kind: type[nn.Module], g: Geometry, settings: Mapping[str, object]) -> nn.Module:
    more = {"output_padding": g.extra} if g.transposed else {}
    return kind(
        g.groups * g.channels,
        g.groups * g.outputs,
        g.kernel,
        stride=g.stride,
        padding=g.padding,
        dilation=g.dilation,
        groups=g.groups,
        **more,
        **settings,
    )


def _case(
    random: Draw, module: nn.Module, g: Geometry, letters: tuple[str, ...], scalars: Mapping[str, float], grouped: bool
) -> Case:
    """Return a random instance in the derivation's layout: a group axis, and one spatial axis for each letter."""
    batch = random.whole(1, 2)
    missing = (1,) * (len(letters) - len(g.kernel))
    lead = (g.groups,) if grouped else ()
    rows = (g.channels, g.outputs) if g.transposed else (g.outputs, g.channels)
    kernel = (*lead, *rows, *g.kernel, *missing)
    space = len(g.kernel)

    def call(inner: nn.Module, x: Tensor) -> Tensor:
        """Return the layer's output for rows of patches as the derivation lays them out."""
        image = x.reshape(len(x), g.groups * g.channels, *x.shape[-len(letters) :][:space])
        z: Tensor = inner(image)
        return z.reshape(len(x), *lead, g.outputs, *z.shape[2:], *missing)

    places = {"W": Place("weight", lambda t: t.reshape(kernel))}
    if getattr(module, "bias", None) is not None:
        places["b"] = Place("bias", lambda t: t.reshape(*lead, g.outputs))
    return Case(
        module=Laid(random.real(module), call),
        inputs={"x": random.power(-0.5, 0.5) * random.normal(batch, *lead, g.channels, *g.length, *missing)},
        g=random.gradient(batch, *lead, g.outputs, *g.positions, *missing),
        places=places,
        scalars={**scalars, **{f"extra{k}": float(e) for k, e in enumerate(g.extra)}},
        sizes=g.sizes(batch, letters),
        eta=random.power(-1, 6),
    )


def geometry_of(case: Case, kind: Kind) -> Geometry:
    """Return the geometry of an instance from its sizes."""
    letters = LETTERS[kind.derivation_axes][: kind.axes]

    def each(stem: str) -> tuple[int, ...]:
        return tuple(case.sizes[f"{stem}{a}"] for a in letters)

    return Geometry(
        groups=case.sizes["G"],
        channels=case.sizes["C"],
        outputs=case.sizes["O"],
        kernel=each("K"),
        stride=each("stride"),
        padding=each("padding"),
        dilation=each("dilation"),
        length=each("L"),
        extra=tuple(int(case.scalars[f"extra{k}"]) for k in range(kind.axes)),
        transposed=kind.transposed,
    )


def _reference(tensors: Mapping[str, Tensor], case: Case, kind: Kind) -> Tensor:
    """Return the hand-written map: the row map of every patch."""
    g = geometry_of(case, kind)
    x, W = tensors["x"], tensors["W"]
    image = x.reshape(x.shape[0], g.groups, g.channels, *g.length)
    kernel = W.reshape(*W.shape[:3], *g.kernel)
    if g.transposed:  # output position q reads input (q - dilation k) / stride: the filter is flipped
        kernel = kernel.flip(tuple(range(3, 3 + kind.axes))).transpose(1, 2)
    z = references.patch_map(kind.form, g.rows(image), kernel, tensors.get("b"), case.kappa, kind.centred)
    return z.reshape(*z.shape[:3], *g.positions, *(1,) * (kind.derivation_axes - kind.axes))


def _stated(case: Case, grouped: bool) -> Tensor:
    """Return the self factor that the package states, in the layout of the derivation: (B, [G,] 1, *space)."""
    inner, x = case.module.inner, case.inputs["x"]
    assert isinstance(inner, nn.Module)
    axes, lead = len(inner.kernel_size), 3 if grouped else 2  # type: ignore[arg-type]
    image = x.reshape(x.shape[0], -1, *x.shape[lead : lead + axes])
    stated: Tensor = target.package().self_factor(inner, image)
    stated = stated if case.sizes["G"] > 1 else stated.unsqueeze(1)
    stated = stated.unsqueeze(2) if grouped else stated
    return stated.reshape(*stated.shape, *(1,) * (case.g.dim() - stated.dim()))
