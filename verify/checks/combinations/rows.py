"""Combinations of the maps of rows: settings, types, sizes, edges and layouts, crossed with every path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verify.checks import target
from verify.checks.combinations.covering import Row, Rule, only
from verify.checks.combinations.hand import mapped_rows
from verify.checks.combinations.instance import TYPES, Instance
from verify.checks.combinations.layouts import LAYOUTS, plain
from verify.checks.combinations.paths import COMPILED, PATHS

CLASSES = {"affine-like": "AffineLike", "norm-like": "NormLike"}
SCALES = {"ordinary": 1.0, "tiny": 1e-30, "huge": 1e30}
_NARROW = {"ordinary": 1.0, "tiny": 1e-3, "huge": 1e3}  # of float16
_MANY = {  # rows and features
    "none": (0, 4),
    "one": (1, 4),
    "few": (5, 3),
    "thousand": (39, 37),  # so many numbers that the default looks for kernels
    "shared": (1027, 43),  # which several threads share
    "blocks": (8197, 67),  # which torch's operations take in blocks
    "long": (6, 523),  # longer than a tile of Triton
    "longest": (3, 1031),  # longer than a warp takes
    "chunks": (261, 5),  # more than one chunk of a sum over rows
}


@dataclass(frozen=True)
class Kind:
    """Which map of rows: its name in equations, its form and settings."""

    name: str
    layer: str
    form: str
    biased: bool = True
    centred: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        """The input and the parameters, by their names in the module."""
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


def factors(kind: Kind, backend: str) -> dict[str, tuple[Any, ...]]:
    """Return the factors of a map on a backend, and their levels."""
    sizes = {
        "torch": ("none", "one", "few", "thousand", "blocks"),
        "cpp": ("none", "one", "few", "thousand", "shared"),
        "triton": ("none", "one", "few", "long"),
        "cuda": ("none", "one", "few", "longest", "chunks"),
    }[backend]
    types = {"torch": tuple(TYPES), "cpp": ("float64", "float32"), "triton": tuple(TYPES)}
    half = ("float32", "bfloat16", "float16") if kind.form == "affine-like" else ("float32", "bfloat16")
    return {
        "path": PATHS_OF[backend],
        "backend": ("torch", None) if backend == "torch" else (backend,),
        "dtype": types.get(backend, half),
        "size": sizes,
        "axes": (2, 1, 3),
        "layout": tuple(LAYOUTS)[:-1],
        "gradient": ("drawn", "expanded"),
        "zeros": ("none", "some", "all"),
        "scale": tuple(SCALES),
        "kappa": ("other", "default"),
        "wanted": _SUBSETS[len(kind.tensors)],
    }


_KERNELS = ("eager", "second-order", "forward-mode", "dual-numbers", "vmap", "autocast", "fake", "inference")
PATHS_OF = {
    "torch": (*PATHS, COMPILED),
    "cpp": tuple(PATHS),
    "triton": (*_KERNELS, COMPILED),
    "cuda": _KERNELS,
}
_OF_DUALS = ("dual-numbers", "forward-over-reverse", "forward-mode")  # torch knows no tangents of negated views
_OF_ANY_SCALE = ("eager", "recorded", "autocast", "inference", "vmap")
_DOUBLE = ("float32", "float64")
RULES = (
    Rule(("size", "axes"), lambda size, axes: axes != 1 or size == "one"),
    Rule(("size", "zeros"), lambda size, zeros: zeros != "some" or size not in ("none", "one")),
    Rule(("size", "path"), lambda size, path: size != "none" or path != "second-order"),
    Rule(("scale", "zeros"), lambda scale, zeros: scale == "ordinary" or zeros == "none"),
    Rule(("path", "scale"), lambda path, scale: scale == "ordinary" or path in _OF_ANY_SCALE),
    Rule(("path", "layout"), lambda path, layout: layout != "negated" or path not in _OF_DUALS),
    Rule(("path", "gradient"), lambda path, gradient: gradient == "drawn" or path in ("eager", "recorded")),
    *only("size", "shared", path=("eager", "recorded"), dtype=_DOUBLE),
    *only("size", "blocks", path=("eager",), dtype=_DOUBLE, axes=(2,), layout=("plain", "strided"), scale=("ordinary",)),
    *only("size", "long", path=("eager",)),
    *only("size", "longest", path=("eager",)),
    *only("size", "chunks", path=("eager",)),
    *only("path", "traced", layout=("plain",), size=("few",), zeros=("none",), kappa=("other",), wanted=("all",)),
    *only("path", "fake", layout=("plain",), zeros=("none",), kappa=("other",), dtype=("float32", "bfloat16")),
    *only("path", "fake", scale=("ordinary",), size=("none", "few", "one")),
    *only(
        "path",
        COMPILED,
        layout=("plain",),
        size=("few", "thousand"),
        dtype=("float32", "bfloat16"),
        axes=(2, 3),
        wanted=("all", "x"),
    ),
)


def instance(kind: Kind, row: Row, generator: torch.Generator, device: str = "cpu") -> Instance:
    """Return a module at random values as a row of settings says."""
    rows, n = _MANY[row["size"]]
    dtype, m = TYPES[row["dtype"]], 3 if row["size"] != "thousand" else 5
    kappa = None if row["kappa"] == "default" else 1.7 + (kind.form == "norm-like")
    settings = {} if kappa is None else {"kappa": kappa}
    settings |= {"center": True} if kind.centred else {}
    module = getattr(target.package(), CLASSES[kind.form])(n, m, bias=kind.biased, backend=row["backend"], **settings)
    by = (_NARROW if row["dtype"] == "float16" else SCALES)[row["scale"]]
    x = _drawn(generator, rows, n) * by
    if row["zeros"] != "none":
        x[slice(0, rows // 2) if row["zeros"] == "some" else slice(None)] = 0
    parameters = {name: _drawn(generator, *p.shape) for name, p in module.named_parameters()}
    g = torch.ones(()).expand(rows, m) if row["gradient"] == "expanded" else _drawn(generator, rows, m)
    lead = {1: (), 2: (rows,), 3: (-1, 1) if rows % 3 else (3, rows // 3)}[row["axes"]]
    values = {"x": x.reshape(*lead, n) if rows else x.reshape(*(0 for _ in lead), n), **parameters}
    z = (*values["x"].shape[:-1], m)
    used = module.kappa

    def reference(v: Any) -> Tensor:
        return mapped_rows(kind.form, v["x"], v["weight"], v.get("bias"), used, centred=kind.centred)

    g = g.to(dtype).expand(z) if row["gradient"] == "expanded" and g.dim() == len(z) else g.to(dtype).reshape(z)
    return Instance(
        module=module.to(device, dtype),
        call=lambda inner, x: inner(x),
        inputs=("x",),
        values={name: t.to(device, dtype) for name, t in values.items()},
        reference=reference,
        g=g.to(device),
        wanted=kind.tensors if row["wanted"] == "all" else tuple(row["wanted"].split()),
        laid=LAYOUTS[row["layout"]] if row["gradient"] == "drawn" else plain,
        ordinary=row["scale"] == "ordinary",
        slack=4.0 if rows > 1000 else 1.0,
    )


def _drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
