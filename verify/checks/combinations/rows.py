"""Combinations for row maps: settings, dtypes, sizes, edge cases and layouts, crossed with every path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from verify.checks import target
from verify.checks.combinations.covering import Row, only
from verify.checks.combinations.hand import mapped_rows
from verify.checks.combinations.instance import TYPES, Instance
from verify.checks.combinations.layouts import LAYOUTS
from verify.checks.combinations.paths import COMPILED, INDUCTOR, PATHS, ROUNDING

CLASSES = {"affine-like": "AffineLike", "norm-like": "NormLike"}
_SIZES = {  # rows and features, and units
    "few": (6, 3, 4),
    "thousand": (39, 37, 5),  # large enough for the automatic choice of kernels
    "no rows": (0, 4, 3),
    "one row": (1, 4, 3),
    "a vector": (1, 4, 3),
    "shared": (1027, 43, 37),  # divided among several threads
    "blocks": (8197, 67, 3),  # processed by the torch target in blocks
    "long": (6, 523, 3),  # longer than a tile of Triton
    "long zero": (6, 523, 3),  # with rows of zeros
    "longest": (3, 1031, 3),  # longer than one warp handles
    "chunks": (261, 5, 3),  # more than one chunk of a sum over rows
}
_SCALES = {  # factors on the drawn numbers, which are at most 6; halves are float16
    "tiny": 1e-30,
    "huge": 1e30,
    "the end": 5e37,
    "tiny halves": 1e-5,
    "huge halves": 1e4,
}
_EDGES = ("no rows", "one row", "a vector", "some zero", "all zero", "tiny", "huge", "default kappa")
_EDGES_OF = {  # by target, in addition to those of all targets
    "torch": ("the end", "tiny halves", "huge halves", "blocks"),
    "cpp": ("the end", "shared"),
    "triton": ("the end", "tiny halves", "huge halves", "long", "long zero"),
    "cuda": ("the end", "longest", "chunks"),
}
_LARGE = ("shared", "blocks", "long", "long zero", "longest", "chunks")


@dataclass(frozen=True)
class Kind:
    """A row map: its name in equation ids, its form and settings."""

    name: str
    layer: str
    form: str
    biased: bool = True
    centred: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the input and the parameters in the module."""
        return ("x", "weight", "bias") if self.biased else ("x", "weight")


KINDS = (
    Kind("affine-like", "affine", "affine-like"),
    Kind("norm-like", "affine", "norm-like"),
    Kind("centred-affine/norm-like", "affine", "norm-like", centred=True),
    Kind("linear/norm-like", "linear", "norm-like", biased=False),
    Kind("centred-linear/norm-like", "linear", "norm-like", biased=False, centred=True),
)
_SUBSETS = {
    3: ("all", "x", "weight", "bias", "x weight", "x bias", "weight bias"),
    2: ("all", "x", "weight"),
}
_KERNELS = ("eager", "second-order", "forward-mode", "dual-numbers", "vmap", "autocast", "fake", "inference")
PATHS_OF = {
    "torch": (*(name for name in PATHS if name != ROUNDING), COMPILED),
    "cpp": tuple(name for name in PATHS if name != ROUNDING),
    "triton": (*_KERNELS, COMPILED),
    "cuda": (*_KERNELS, ROUNDING),  # Triton's interpreter truncates to bfloat16
}
_OF_ANY_SCALE = ("eager", "recorded", "inference", "vmap")
_OF_DUALS = ("dual-numbers", "forward-over-reverse", "forward-mode")  # torch has no tangents of negated views
_OUTPUTS = ("traced", "inference")  # paths that return outputs only, no gradients
_DOUBLE = ("float32", "float64")


def paths(kind: Kind, backend: str) -> tuple[str, ...]:
    """Return the paths (ways to call the map) checked for a backend; one map also goes through Inductor."""
    return (*PATHS_OF[backend], *((INDUCTOR,) if kind.name == "affine-like" and backend == "torch" else ()))


def factors(kind: Kind, backend: str, path: str) -> tuple[dict[str, tuple[Any, ...]], tuple[str, ...]]:
    """Return the factors of a map for a backend, with their levels, and the edge cases."""
    half = ("float32", "bfloat16", "float16") if kind.form == "affine-like" else ("float32", "bfloat16")
    types = {"torch": tuple(TYPES), "cpp": _DOUBLE, "triton": tuple(TYPES), "cuda": half}[backend]
    layouts = tuple(
        name for name in LAYOUTS if name != "channels last" and (name != "negated" or path not in _OF_DUALS)
    )
    whole = path == "eager"
    interpreted = backend in ("triton", "cuda")
    found: dict[str, tuple[Any, ...]] = {
        "backend": ("torch", None) if backend == "torch" else (backend,),
        "dtype": types,
        "axes": (2, 3),
        "layout": layouts if whole or path in ("inference", "autocast") else ("plain", "strided"),
        "gradient": ("drawn", "expanded") if path in ("eager", "recorded") else ("drawn",),
        "wanted": ("all",)
        if path in _OUTPUTS
        else _SUBSETS[len(kind.tensors)][: None if whole else 2 if interpreted else 3],
    }
    if interpreted and not whole:
        found |= {"layout": ("plain",), "dtype": ("float32", "bfloat16")}
    if path in (COMPILED, INDUCTOR, "traced", "fake", "watched"):
        found |= {"layout": ("plain",), "dtype": tuple(name for name in types if name in ("float32", "bfloat16"))}
    if path == ROUNDING:
        found |= {
            "layout": ("plain",),
            "dtype": tuple(name for name in types if name.endswith("16")),
            "wanted": ("all",),
        }
    if path in (COMPILED, INDUCTOR):  # compilation dominates the time
        low = ("float32", "bfloat16") if kind.name == "affine-like" and path == COMPILED else ("float32",)
        found |= {"wanted": ("all",), "backend": found["backend"][-1:], "dtype": low, "axes": (3,)}
    halves = {"tiny halves": "weight" in found["wanted"], "huge halves": True}
    every = (edge for edge in (*_EDGES, *_EDGES_OF[backend]) if _meets(edge, path, kind))
    return found, tuple(e for e in every if e not in halves or ("float16" in found["dtype"] and halves[e]))


def _meets(edge: str, path: str, kind: Kind) -> bool:
    """Return whether an edge case is checked on a path."""
    if edge in _LARGE:
        return path == "eager" or (edge == "shared" and path == "recorded")
    if edge in _SCALES:
        return path in _OF_ANY_SCALE
    if path in (COMPILED, INDUCTOR, ROUNDING):
        return edge == "some zero" and (path == ROUNDING or kind.name == "affine-like")
    return path not in ("traced", "fake", "watched") or edge in ("no rows", "a vector")


def is_left_out(kind: Kind, backend: str, path: str) -> bool:
    """Return whether a path is too slow without ``--full``; by default one Triton map is compiled."""
    return path == COMPILED and backend == "triton" and kind.name != "affine-like"


RULES = (
    *only(
        "edge", "blocks", dtype=_DOUBLE, layout=("plain", "strided"), backend=("torch",), wanted=("all", "x", "x bias")
    ),
    *only("edge", "tiny", dtype=("float32",)),
    *only("edge", "huge", dtype=("float32",)),
    *only("edge", "the end", dtype=("float32",)),
    *only("edge", "tiny halves", dtype=("float16",), wanted=("weight",)),  # dx would overflow
    *only("edge", "huge halves", dtype=("float16",), backend=(None, "triton")),  # a sum of many terms overflows
    *only("edge", "no rows", backend=("torch", "cpp", "triton", "cuda")),
    *only("edge", "one row", backend=("torch", "cpp", "triton", "cuda")),
    *only("edge", "a vector", backend=("torch", "cpp", "triton", "cuda"), axes=(2,)),
)


def instance(kind: Kind, row: Row, generator: torch.Generator, device: str = "cpu") -> Instance:
    """Return a module with random values for a row of settings."""
    edge, dtype = row["edge"], TYPES[row["dtype"]]
    usual = "thousand" if row["backend"] is None else "few"
    rows, n, m = _SIZES[edge if edge in _SIZES else usual]
    settings: dict[str, Any] = {} if edge == "default kappa" else {"kappa": 1.7 + (kind.form == "norm-like")}
    settings |= {"center": True} if kind.centred else {}
    module = getattr(target.package(), CLASSES[kind.form])(n, m, bias=kind.biased, backend=row["backend"], **settings)
    x = _drawn(generator, rows, n) * _SCALES.get(edge, 1.0)
    if edge.endswith("zero"):
        x[: rows if edge == "all zero" else rows // 2] = 0
    parameters = {name: _drawn(generator, *p.shape) for name, p in module.named_parameters()}
    lead = _lead(edge, row["axes"], rows)
    g = (torch.ones(()) if row["gradient"] == "expanded" else _drawn(generator, *lead, m)).to(dtype).expand(*lead, m)
    values = {"x": x.reshape(*lead, n), **parameters}
    used = module.kappa
    if row["backend"] is None:
        _look_for_kernels(target.package(), kind, dtype)

    def reference(v: Any) -> Tensor:
        return mapped_rows(kind.form, v["x"], v["weight"], v.get("bias"), used, centred=kind.centred)

    return Instance(
        module=module.to(device, dtype),
        call=lambda inner, x: inner(x),
        inputs=("x",),
        values={name: t.to(device, dtype) for name, t in values.items()},
        reference=reference,
        g=g.to(device),
        wanted=kind.tensors if row["wanted"] == "all" else tuple(row["wanted"].split()),
        laid=LAYOUTS[row["layout"]],
        ordinary=edge not in _SCALES,
        slack=5.0 if rows > 1000 or edge == "tiny halves" else 1.0,
    )


@cache
def _look_for_kernels(package: Any, kind: Kind, dtype: torch.dtype) -> None:
    """Call a map on a thousand numbers, so that later calls use its kernels without searching for them."""
    module = getattr(package, CLASSES[kind.form])(40, 2, bias=kind.biased, dtype=dtype)
    with torch.no_grad():
        module(torch.ones(40, 40, dtype=dtype))


def _lead(edge: str, axes: int, rows: int) -> tuple[int, ...]:
    """Return the batch axes: none for a vector, else one or two."""
    if edge == "a vector":
        return ()
    if axes == 2:
        return (rows,)
    factor = next(k for k in (3, 13, 7, 1) if rows % k == 0)
    return (factor, rows // factor)


def _drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
