"""Combinations for patch maps: geometries, settings, dtypes, edge cases and layouts, crossed with every path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verify.checks import target
from verify.checks.combinations.covering import Row, Rule, only
from verify.checks.combinations.hand import mapped_patches
from verify.checks.combinations.instance import TYPES, Instance
from verify.checks.combinations.layouts import LAYOUTS
from verify.checks.combinations.paths import COMPILED, PATHS, ROUNDING
from verify.checks.geometry import Geometry

_ATTEMPTS = 200
_SCALES = {"tiny": 1e-30, "huge": 1e30, "the end": 5e37}  # factors on the drawn numbers, which are at most 6
_KERNELS = ("eager", "second-order", "dual-numbers", "autocast", "fake", "inference")
_COMPILED = (
    "grouped-convolution/affine-like",
    "centred-convolution/norm-like",
    "grouped-transposed-convolution/norm-like",
)
PATHS_OF = {
    "torch": (*(name for name in PATHS if name != ROUNDING), COMPILED),
    "cpp": ("eager", "second-order", "dual-numbers", "vmap", "autocast", "autocast-backward", "fake", "inference"),
    "triton": _KERNELS,
    "cuda": _KERNELS,
}
_EDGES = ("no images", "some zero", "all zero", "tiny", "huge", "the end", "default kappa")
_OF_CENTRED = ("constant", "nearly constant")
_OF_ANY_SCALE = ("eager", "recorded", "inference")
_OUTPUTS = ("traced", "inference")  # paths that return outputs only, no gradients
_INTERPRETED = ("triton", "cuda")
_FEW_PATHS = ("traced", "fake", "watched", COMPILED)


@dataclass(frozen=True)
class Kind:
    """A patch map: its name in equation ids, its form and settings."""

    name: str
    form: str
    biased: bool = True
    centred: bool = False
    transposed: bool = False

    @property
    def layer(self) -> str:
        """The layer's name on the command line."""
        return "transposed-convolution" if self.transposed else "convolution"

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the input and the parameters in the module."""
        return ("x", "weight", "bias") if self.biased else ("x", "weight")


_SLACK = {"nearly constant": 300.0, "constant": 300.0}
KINDS = tuple(
    Kind(f"{stem}-convolution{'' if biased else '-without-bias'}/{form}", form, biased, stem == "centred", turned)
    for stem, turned in (("grouped", False), ("centred", False), ("grouped-transposed", True))
    for form, biased in (("affine-like", True), ("norm-like", True), ("norm-like", False))
)
_SUBSETS = {
    3: ("all", "x", "weight bias", "weight", "bias", "x weight", "x bias"),
    2: ("all", "x", "weight"),
}


def paths(kind: Kind, backend: str) -> tuple[str, ...]:
    """Return the paths (ways to call the map) that are checked for a backend."""
    return PATHS_OF[backend]


def factors(kind: Kind, backend: str, path: str) -> tuple[dict[str, tuple[Any, ...]], tuple[str, ...]]:
    """Return the factors of a map for a backend, with their levels, and the edge cases."""
    cuda = ("float32", "bfloat16") if kind.name == "grouped-convolution/affine-like" else ("float32",)
    kernels = {"cpp": ("float64", "float32"), "triton": ("float32", "bfloat16", "float64"), "cuda": cuda}
    whole = path == "eager"
    found: dict[str, tuple[Any, ...]] = {
        "backend": ("torch", None) if backend == "torch" else (backend,),
        "dtype": kernels.get(backend, tuple(TYPES)[: 4 if whole or path in ("recorded", "autocast") else 3]),
        "images": ("no batch", "one image", "three images"),
        "axes": (1, 2, 3),
        "layout": tuple(LAYOUTS) if whole else ("plain", "channels last"),
        "gradient": ("drawn", "expanded") if path in ("eager", "recorded") else ("drawn",),
        "wanted": _wanted(kind, backend, path),
        "stride": (1, 2),
        "dilation": (1, 2),
        "padding": ("some", "none"),
        "groups": (1, 2),
        "channels": ("few", "many") if whole and backend != "torch" else ("few",),
        "recompute": (True, False),
    }
    if kind.transposed:
        found["extra"] = ("none", "some", "a stride")
    if path in _FEW_PATHS:
        found |= {"layout": ("plain",), "dtype": ("float32",), "groups": found["groups"][-1:], "padding": ("some",)}
        found |= {"images": ("no batch", "three images"), "dilation": (2,), "axes": (2, 3)}
    if backend in _INTERPRETED:  # interpreted kernels take a hundred times as long
        found |= {"layout": ("plain", "channels last", "among NaN")[: 3 if whole else 1]}
        found |= (
            {}
            if whole
            else {"images": ("no batch", "three images"), "dtype": ("float32",), "wanted": found["wanted"][:2]}
        )
    if path == COMPILED:
        found |= {"images": ("three images",), "axes": (2,), "stride": (2,), "recompute": (True,), "backend": (None,)}
        found |= {"extra": ("some",)} if kind.transposed else {}
    every = (*_EDGES, *(_OF_CENTRED if kind.centred else ()), *(() if backend in _INTERPRETED else ("many",)))
    return found, tuple(edge for edge in every if _meets(edge, path, backend))


def _wanted(kind: Kind, backend: str, path: str) -> tuple[str, ...]:
    """Return the sets of tensors that require gradients; for GPU kernels only those that select different kernels."""
    every = _SUBSETS[len(kind.tensors)]
    if path in (*_OUTPUTS, COMPILED, "fake"):
        return every[:1]
    return every if path == "eager" and backend in ("torch", "cpp") else every[:3]


def _meets(edge: str, path: str, backend: str) -> bool:
    """Return whether an edge case is checked on a path."""
    if edge == "many":
        return path == "eager"
    if edge in _SCALES:
        return path in _OF_ANY_SCALE
    if path in _FEW_PATHS:
        return edge == "no images" and path in ("fake", "watched")
    if backend in _INTERPRETED and path != "eager":
        return edge in ("no images", "default kappa")
    return path != "autocast" or edge not in _OF_CENTRED


def is_left_out(kind: Kind, backend: str, path: str) -> bool:
    """Return whether a path is too slow without ``--full``; by default only some maps of each kind are compiled."""
    return path == COMPILED and kind.name not in _COMPILED


RULES = (
    Rule(("extra", "stride"), lambda extra, stride: extra == "none" or stride == (2 if extra == "some" else 1)),
    Rule(("extra", "dilation"), lambda extra, dilation: extra != "a stride" or dilation == 2),
    *only("edge", "some zero", images=("three images",)),
    *only("edge", "tiny", dtype=("float32", "bfloat16")),
    *only("edge", "huge", dtype=("float32", "bfloat16")),
    *only("edge", "the end", dtype=("float32",)),
    *only("edge", "constant", dtype=("float32", "float64")),
    *only("edge", "nearly constant", dtype=("float32", "float64")),
    *only("edge", "no images", channels=("few",), images=("three images",)),
    *only(
        "edge",
        "many",
        images=("three images",),
        dtype=("float32",),
        channels=("few",),
        axes=(2,),
        layout=("plain", "channels last"),
        gradient=("drawn",),
        wanted=("all", "x"),
        padding=("none",),
        stride=(1,),
        dilation=(1,),
        groups=(1,),
    ),
)


def instance(kind: Kind, row: Row, generator: torch.Generator, device: str = "cpu") -> Instance:
    """Return a module with random values for a row of settings."""
    geometry = _geometry(kind, row, generator)
    dtype, images = TYPES[row["dtype"]], 3 if row["images"] == "three images" else 1
    images = 0 if row["edge"] == "no images" else images
    module = _module(kind, row, geometry)
    alone = row["images"] == "no batch"
    groups, axes = geometry.groups, len(geometry.kernel)
    x = _values(row, _drawn(generator, images, groups * geometry.channels, *geometry.length))
    z = (images, groups * geometry.outputs, *geometry.positions)
    g, expanded = _drawn(generator, *z), row["gradient"] == "expanded"
    parameters = {name: _drawn(generator, *p.shape) for name, p in module.named_parameters()}
    used = module.kappa

    def reference(v: Any) -> Tensor:
        image = v["x"].unsqueeze(0) if alone else v["x"]
        rows = geometry.rows(image.unflatten(1, (groups, -1)))
        W = v["weight"].unflatten(0, (groups, -1))
        if kind.transposed:  # output position q reads input (q - dilation k) / stride: the filter is flipped
            W = W.flip(tuple(range(3, 3 + axes))).transpose(1, 2)
        b = v["bias"].unflatten(0, (groups, -1)) if kind.biased else None
        found = mapped_patches(kind.form, rows, W.flatten(2), b, used, centred=kind.centred).flatten(1, 2)
        return found.squeeze(0) if alone else found

    values = {"x": x.squeeze(0) if alone else x, **parameters}
    g = (g.squeeze(0) if alone else g).to(dtype)
    return Instance(
        module=module.to(device, dtype),
        call=lambda inner, x: inner(x),
        inputs=("x",),
        values={name: t.to(device, dtype) for name, t in values.items()},
        reference=reference,
        g=torch.ones((), dtype=dtype, device=device).expand(g.shape) if expanded else g.to(device),
        wanted=kind.tensors if row["wanted"] == "all" else tuple(row["wanted"].split()),
        laid=LAYOUTS["plain" if expanded else row["layout"]],
        ordinary=row["edge"] not in _SCALES,
        slack=_SLACK.get(row["edge"], 1.0),
    )


def _module(kind: Kind, row: Row, g: Geometry) -> Any:
    settings: dict[str, Any] = {"form": kind.form, "bias": kind.biased, "recompute": row["recompute"]}
    settings |= {"kappa": 1.7 + (kind.form == "norm-like")} if row["edge"] != "default kappa" else {}
    settings |= {"output_padding": g.extra} if kind.transposed else {"center": kind.centred}
    make = getattr(target.package(), f"PatchNormConv{'Transpose' if kind.transposed else ''}{len(g.kernel)}d")
    return make(
        g.groups * g.channels,
        g.groups * g.outputs,
        g.kernel,
        stride=g.stride,
        padding=g.padding,
        dilation=g.dilation,
        groups=g.groups,
        backend=row["backend"],
        **settings,
    )


def _values(row: Row, x: Tensor) -> Tensor:
    """Return the images with the zeros and the scale that the combination prescribes."""
    edge = row["edge"]
    if edge == "some zero":
        x[0] = 0
    elif edge == "all zero":
        x = torch.zeros_like(x)
    elif edge in ("constant", "nearly constant"):
        x = 2 + (3e-3 * x if edge == "nearly constant" else 0 * x)
    return x * _SCALES.get(edge, 1.0)


def _geometry(kind: Kind, row: Row, generator: torch.Generator) -> Geometry:
    """Return a random geometry for a row of settings, with at least one output position on every axis."""
    for _ in range(_ATTEMPTS):
        found = _attempt(kind, row, generator)
        if min(found.positions) >= 1 and (row["edge"] == "many" or any(found.positions_seen())):
            return found
    raise AssertionError("no valid geometry was drawn for this row; allow smaller ones")


def _attempt(kind: Kind, row: Row, generator: torch.Generator) -> Geometry:
    axes, many = row["axes"], row["edge"] == "many"

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(whole(low, high) for _ in range(axes))

    kernel = each(1, 3 if axes < 3 and not many else 2)
    if max(kernel) == 1:
        kernel = (2, *kernel[1:])
    stride = each(1, 1) if row["stride"] == 1 else (*each(1, 3)[1:], 2)
    dilation = each(1, 1) if row["dilation"] == 1 else (2, *each(1, 2)[1:])
    extra = (0,) * axes
    if kind.transposed and row["extra"] == "some":
        extra = tuple(min(1, s - 1) for s in stride)
    elif kind.transposed and row["extra"] == "a stride":
        extra = tuple(d - 1 for d in dilation)
    length = each(160, 170) if many else each(2, 6) if axes < 3 else each(2, 4)
    return Geometry(
        groups=row["groups"],
        channels=(7 if many else 3) if row["channels"] == "few" else 37,
        outputs=2 if row["channels"] == "few" else 19,
        kernel=kernel,
        stride=stride,
        padding=each(0, 0) if row["padding"] == "none" else tuple(whole(1, k) for k in kernel),
        dilation=dilation,
        length=length,
        extra=extra,
        transposed=kind.transposed,
    )


def _drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
