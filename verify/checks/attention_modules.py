"""Subjects that are whole attention modules, compared in every input and parameter with attention by single heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verify.checks import references, target
from verify.checks.attention_steps import step_subjects
from verify.checks.cases import Case, Draw, Laid, Place, Source, Subject
from verify.derived import derived

SETTINGS: dict[str, dict[str, Any]] = {"module": {}, "qk-norm": {"qk_norm": True}, "value-path": {"value_path": True}}
_BY = ("x", "y", "WQ", "bQ", "WK", "bK", "WV", "bV", "W", "b")


def whole_subjects() -> list[Subject]:
    """Return a subject for each setting of the generated module, and the subjects of steps inside it."""
    whole = [_whole(variant, settings) for variant, settings in SETTINGS.items()]
    return [*whole, *step_subjects(SETTINGS)]


def _whole(variant: str, settings: dict[str, Any]) -> Subject:
    def draw(random: Draw, kappa: float) -> Case:
        return _draw(random, settings)

    def reference(v: Mapping[str, Tensor], case: Case) -> Tensor:
        return by_heads(v, settings)

    value = "attention-value" if settings.get("value_path") else "attention-projection"
    return Subject(
        name="attention-output/affine-like",
        layer="attention",
        source=lambda: Source(derived("attention-output").layer),
        draw=draw,
        variant=variant,
        form="affine-like",
        reference=reference,
        by=_BY,
        families=("gradient",),
        equations=_equations(value),
    )


def _equations(value: str) -> dict[str, str]:
    """Return the ids of the equations behind the output and each gradient: of projections, values and the output."""
    parts = [f"{part}/affine-like" for part in dict.fromkeys(("attention-projection", value, "attention-output"))]
    every = ", ".join(f"{part}/forward" for part in parts)
    found = {"forward": every, "gradcheck": every, "gradgradcheck": every}
    for name in _BY:
        home = value if name.endswith("V") else "attention-output" if name in ("W", "b") else "attention-projection"
        found[f"backward-d{name}"] = f"{home}/affine-like/backward-d{name[0] if name[0] in 'Wb' else 'x'}"
    return found


def _draw(random: Draw, settings: Mapping[str, Any]) -> Case:
    heads, width, batch = random.whole(1, 2), random.whole(2, 3), random.whole(1, 2)
    asking, answering = random.whole(1, 3), random.whole(2, 3)
    wide = heads * width
    module = target.package().AffineLikeMultiheadAttention(wide, heads, batch_first=True, **settings)
    blocks = {"Q": slice(0, wide), "K": slice(wide, 2 * wide), "V": slice(2 * wide, None)}

    def call(inner: Any, x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = inner(x, y, y)[0]
        return z

    places = {"W": Place("out_proj.weight"), "b": Place("out_proj.bias")}
    for letter, block in blocks.items():
        places[f"W{letter}"] = Place("in_proj_weight", _block(block, heads, width))
        places[f"b{letter}"] = Place("in_proj_bias", _block(block, heads, width))
    return Case(
        module=Laid(random.real(module), call),
        inputs={"x": random.normal(batch, asking, wide), "y": random.normal(batch, answering, wide)},
        g=random.gradient(batch, asking, wide),
        places=places,
        scalars={"kappa": 1.0},
        sizes={"B": batch, "d": width, "R": heads},
        eta=1.0,
    )


def _block(rows: slice, heads: int, width: int) -> Any:
    return lambda t: t[rows].unflatten(0, (heads, width))


def named_by_heads(parameters: Mapping[str, Tensor], heads: int, width: int) -> dict[str, Tensor]:
    """Return the parameters of a module of one width, split by heads, under their names in ``by_heads``."""
    W, b = parameters["in_proj_weight"], parameters["in_proj_bias"]
    found = {"W": parameters["out_proj.weight"], "b": parameters["out_proj.bias"]}
    for letter, rows, offset in zip("QKV", W.chunk(3), b.chunk(3), strict=True):
        found |= {f"W{letter}": rows.unflatten(0, (heads, width)), f"b{letter}": offset.unflatten(0, (heads, width))}
    return found


def by_heads(v: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
    """Return the output of attention with affine-like projections, (B, T, E), from x (B, T, E) and y (B, S, E)."""
    q, k = (references.affine_like_heads(v[at], v[f"W{p}"], v[f"b{p}"]) for at, p in (("x", "Q"), ("y", "K")))
    width = q.shape[-1]
    if settings.get("qk_norm"):
        scores = math.sqrt(width) * F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    else:
        scores = q @ k.mT / math.sqrt(width)
    weights = torch.softmax(scores, -1)
    if settings.get("value_path"):
        mixed = torch.einsum("srtk,skn->srtn", weights, v["y"])
        context = references.affine_like_heads(mixed, v["WV"], v["bV"])
    else:
        context = weights @ references.affine_like_heads(v["y"], v["WV"], v["bV"])
    return references.affine_like(context.transpose(1, 2).flatten(2), v["W"], v["b"], 1.0)
