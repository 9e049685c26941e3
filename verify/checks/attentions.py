"""Subjects of attention: projections, value path and output of torch's module and of the generated one.

Each part is reached through the module's public arguments alone. With one token the attention weight is 1, so the
context is the value projection. With zero queries the scores equal the mask, so the mask sets the attention weights;
the parameters of queries and keys are held fixed, as in the derivation. The context is the input of ``out_proj``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verify.checks import references, target
from verify.checks.attention_modules import whole_subjects
from verify.checks.cases import Case, Draw, Laid, Place, Source, Subject
from verify.derived import derived

_FORM = "affine-like"
Named = Mapping[str, Tensor]


def subjects(layer: str) -> list[Subject]:
    """Return the subjects of a part of attention, or of whole modules if ``layer`` is ``attention``."""
    if layer == "attention":
        return whole_subjects()
    draw, reference, by = _PARTS[layer]
    plain = Subject(
        layer,
        layer,
        lambda: Source(derived(layer).layer),
        lambda random, kappa: draw(random, nn.MultiheadAttention),
        backend="torch.nn",
    )
    generated = Subject(
        name=f"{layer}/{_FORM}",
        layer=layer,
        source=lambda: _solved(layer),
        draw=lambda random, kappa: draw(random, target.package().AffineLikeMultiheadAttention),
        form=_FORM,
        reference=reference,
        by=by,
    )
    return [plain, generated]


@cache
def _solved(layer: str) -> Source:
    found = next(m for m in derived(layer).solutions if m.name == _FORM)
    return Source(found.mapped, found)


def context_of(module: Any, *arguments: Tensor, **settings: Any) -> Tensor:
    """Return the input of ``out_proj``; if the module never calls it, the output with ``out_proj`` as identity."""
    seen: list[Tensor] = []
    handle = module.out_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        z: Tensor = module(*arguments, **settings)[0]
    finally:
        handle.remove()
    return seen[0] if seen else z


def _module(random: Draw, kind: Callable[..., Any], heads: int, width: int, **settings: Any) -> Any:
    module = random.real(kind(heads * width, heads, batch_first=True, **settings))
    if isinstance(module, nn.MultiheadAttention):
        with torch.no_grad():
            module.out_proj.weight.copy_(torch.eye(heads * width))
            module.out_proj.bias.zero_()
    return module


def _draw_projection(random: Draw, kind: Callable[..., Any]) -> Case:
    """One token: the context is its value projection."""
    heads, width, batch = random.whole(1, 2), random.whole(1, 3), random.whole(1, 4)
    wide = heads * width
    module = _module(random, kind, heads, width)

    def call(inner: Any, x: Tensor) -> Tensor:
        return _by_head(context_of(inner, x, x, x), heads)

    values = slice(2 * wide, None)
    return Case(
        module=Laid(module, call),
        inputs={"x": random.power(-1, 1) * random.normal(batch, 1, wide)},
        g=random.gradient(batch, heads, 1, width),
        places={
            "W": Place("in_proj_weight", lambda t: t[values].unflatten(0, (heads, width))),
            "b": Place("in_proj_bias", lambda t: t[values].unflatten(0, (heads, width))),
        },
        scalars={"kappa": 1.0},
        sizes={"B": batch, "n": wide, "d": width, "R": heads, "T": 1},
        eta=random.power(-1, 6),
        trained=_held(module, "out_proj.weight", "out_proj.bias"),
    )


def _draw_output(random: Draw, kind: Callable[..., Any]) -> Case:
    """The output projection, called by itself."""
    heads, width, batch, tokens = random.whole(1, 2), random.whole(1, 3), random.whole(1, 3), random.whole(1, 3)
    wide = heads * width

    def call(inner: Any, c: Tensor) -> Tensor:
        z: Tensor = inner.out_proj(c.transpose(1, 2).flatten(2))
        return z

    return Case(
        module=Laid(random.real(kind(wide, heads, batch_first=True)), call),
        inputs={"c": random.power(-1, 1) * random.normal(batch, heads, tokens, width)},
        g=random.gradient(batch, tokens, wide),
        places={
            "W": Place("out_proj.weight", lambda t: t.unflatten(1, (heads, width))),
            "b": Place("out_proj.bias"),
        },
        scalars={"kappa": 1.0},
        sizes={"B": batch, "d": width, "R": heads, "m": wide, "T": tokens},
        eta=random.power(-1, 6),
    )


def _draw_value(random: Draw, kind: Callable[..., Any]) -> Case:
    """Zero queries: the scores are the mask, which is set to the logarithm of E."""
    heads, width, batch = random.whole(1, 2), random.whole(1, 3), random.whole(1, 2)
    asking, answering, n = random.whole(1, 3), random.whole(2, 4), random.whole(2, 4)
    wide = heads * width
    settings = {} if kind is nn.MultiheadAttention else {"value_path": True}
    module = _module(random, kind, heads, width, vdim=n if n != wide else n + 1, **settings)
    n = module.vdim
    with torch.no_grad():
        module.in_proj_bias[:wide] = 0.0
    values = slice(2 * wide, None)

    def call(inner: Any, E: Tensor, y: Tensor) -> Tensor:
        query, key = y.new_zeros(E.shape[0], asking, wide), y.new_zeros(E.shape[0], answering, wide)
        return _by_head(context_of(inner, query, key, y, attn_mask=E.log().flatten(0, 1)), heads)

    moved = torch.zeros_like(module.in_proj_bias)
    moved[values] = 1.0
    return Case(
        module=Laid(module, call),
        inputs={
            "E": 0.1 + random.normal(batch, heads, asking, answering).abs(),
            "y": random.power(-1, 1) * random.normal(batch, answering, n),
        },
        g=random.gradient(batch, heads, asking, width),
        places={
            "W": Place("v_proj_weight", lambda t: t.unflatten(0, (heads, width))),
            "b": Place("in_proj_bias", lambda t: t[values].unflatten(0, (heads, width))),
        },
        scalars={"kappa": 1.0},
        sizes={"B": batch, "n": n, "d": width, "R": heads, "T": asking, "S": answering},
        eta=random.power(-1, 6),
        trained={
            "in_proj_bias": moved,
            **_held(module, "q_proj_weight", "k_proj_weight", "out_proj.weight", "out_proj.bias"),
        },
    )


def _held(module: nn.Module, *names: str) -> dict[str, Tensor]:
    """Return all-zero masks for parameters that are held."""
    return {name: torch.zeros_like(module.get_parameter(name)) for name in names}


def _by_head(context: Tensor, heads: int) -> Tensor:
    """Return a context (B, T, R d) as (B, R, T, d)."""
    return context.unflatten(-1, (heads, -1)).transpose(1, 2)


def _projection(v: Named, case: Case) -> Tensor:
    return references.affine_like_heads(v["x"], v["W"], v["b"])


def _output(v: Named, case: Case) -> Tensor:
    rows = v["c"].transpose(1, 2).flatten(2)
    return references.affine_like(rows, v["W"].flatten(1), v["b"], 1.0)


def _value(v: Named, case: Case) -> Tensor:
    weights = F.normalize(v["E"], p=1, dim=-1)
    mixed = torch.einsum("srtk,skn->srtn", weights, v["y"])
    return references.affine_like_heads(mixed, v["W"], v["b"])


_PARTS: dict[str, tuple[Callable[[Draw, Callable[..., Any]], Case], Callable[[Named, Case], Tensor], tuple[str, ...]]]
_PARTS = {
    "attention-projection": (_draw_projection, _projection, ("x", "W", "b")),
    "attention-value": (_draw_value, _value, ("E", "y", "W", "b")),
    "attention-output": (_draw_output, _output, ("c", "W", "b")),
}
