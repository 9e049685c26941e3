"""The maps that cases call, with random sizes and hand-written references."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verify.checks import references

_PATIENCE = 600  # seconds
_LAYER = """
name = "fuzzed"
sizes = ["n", "m"]
[input]
x = ["n"]
[parameters]
W = ["m", "n"]
b = ["m"]
[output]
z = ["m"]
formula = "z[i] = sum[j](W[i, j] * tanh(x[j])) + b[i]"
"""


@dataclass(frozen=True)
class Problem:
    """A map at given sizes: our function and its reference, which take the same tensors, and the tensors' shapes."""

    name: str
    ours: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    shapes: Sequence[tuple[int, ...]]
    operator: Callable[..., Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def rows(draw: random.Random) -> Problem:
    """Return a map of rows, mostly small; some have enough rows for several threads."""
    import affine_divergence as ad

    kappa, kind = draw.choice([1.25, 3.0]), draw.choice(["affine_like", "norm_like", "norm_like_without_bias"])
    n, m = draw.randint(1, 70), draw.randint(1, 70)
    batch = draw.choice([0, 1, *(draw.randint(2, 80) for _ in range(8)), draw.randint(700, 900)])
    count = 2 if kind.endswith("bias") else 3
    function = getattr(ad.functional, kind.removesuffix("_without_bias"))
    by_hand = references.ROWS[kind.removesuffix("_without_bias").replace("_", "-")]
    return Problem(
        kind,
        lambda *t, **more: function(t[0], t[1], t[2] if count == 3 else None, kappa, **more),
        lambda *t: by_hand(t[0], t[1], t[2] if count == 3 else None, kappa),
        [(batch, n), (m, n), (m,)][:count],
        importlib.import_module(f"affine_divergence.kernels.cpp.{kind}").OPERATOR,
        {"kappa": kappa},
    )


def convolution(draw: random.Random) -> Problem:
    """Return a convolution over one to three spatial axes."""
    import affine_divergence as ad

    axes, form, bias = draw.choice([1, 2, 2, 3]), draw.choice(["affine-like", "norm-like"]), draw.random() < 0.8
    bias, groups = bias or form == "affine-like", draw.choice([1, 1, 1, 2])
    kernel, stride = [draw.randint(1, 3) for _ in range(axes)], [draw.randint(1, 3) for _ in range(axes)]
    padding, hole = [draw.randint(0, 2) for _ in range(axes)], [draw.randint(1, 2) for _ in range(axes)]
    space = [
        max(1, h * (k - 1) + 1 - 2 * p) + draw.randint(0, 9) for k, p, h in zip(kernel, padding, hole, strict=True)
    ]
    inputs, outputs, batch = groups * draw.randint(1, 9), groups * draw.randint(1, 9), draw.choice([1, 2, 4, 8])
    if form == "norm-like" and inputs == groups and max(kernel) == 1:
        inputs *= 2  # for a patch of one number dx is zero, so in 16 bits only rounding error would be compared
    function = getattr(ad.functional, f"patch_norm_conv{axes}d")
    settings = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(hole), "groups": groups}
    kappa = 2.5

    def by_hand(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
        grouped = x.reshape(x.shape[0], groups, inputs // groups, *x.shape[2:])
        u = references.patches(grouped, kernel, stride, padding, hole)
        filters = W.reshape(groups, outputs // groups, *W.shape[1:])
        biases = None if b is None else b.reshape(groups, -1)
        return references.patch_map(form, u, filters, biases, kappa, False).flatten(1, 2)

    shapes = [(batch, inputs, *space), (outputs, inputs // groups, *kernel), (outputs,)][: 3 if bias else 2]
    return Problem(
        f"patch_norm_conv{axes}d {form}",
        lambda *t, **more: function(*t, **settings, form=form, kappa=kappa, **more),
        by_hand,
        shapes,
    )


def wait_for_the_compiler(package: str) -> None:
    """Raise a generated package's time limit for its C++ compiler, which is slow with sanitizers on a busy machine."""
    compiler: Any = importlib.import_module(f"{package}.kernels.cpp.runtime.compile")
    compiler.PATIENCE = _PATIENCE


class LayerFile:
    """A layer from a text file, generated in a folder; its kernels loop over samples."""

    def __init__(self, folder: Path) -> None:
        from codegen.compiler import build_layer
        from codegen.package import write
        from derive.spec import loads_spec

        write(build_layer(loads_spec(_LAYER), package="fuzzed"), folder / "fuzzed")
        sys.path.insert(0, str(folder))
        self._functional = importlib.import_module("fuzzed.functional")
        wait_for_the_compiler("fuzzed")

    def __call__(self, draw: random.Random) -> Problem:
        """Return the uncorrected layer at random sizes."""
        n, m, batch = (
            draw.randint(1, 40),
            draw.randint(1, 40),
            draw.choice([0, 1, *(draw.randint(2, 60) for _ in range(6))]),
        )
        return Problem(
            "layer from a file",
            self._functional.fuzzed,
            lambda x, W, b: F.linear(torch.tanh(x), W, b),
            [(batch, n), (m, n), (m,)],
        )
