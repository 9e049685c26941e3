"""Combinations of attention: settings, masks, types, edges and layouts, crossed with every path.

By hand: every head a softmax of scores over its own keys, projections the affine-like map of each token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verify.checks import target
from verify.checks.combinations.covering import Row, Rule, only
from verify.checks.combinations.hand import mapped_rows
from verify.checks.combinations.instance import TYPES, Instance, Named
from verify.checks.combinations.layouts import LAYOUTS
from verify.checks.combinations.paths import COMPILED, PATHS, ROUNDING

NAME = "attention"
_HEADS, _WIDTH, _BATCH, _ASKING, _ANSWERING = 2, 3, 3, 4, 5
_KERNELS = ("eager", "second-order", "dual-numbers", "fake")
_OWN = tuple(name for name in PATHS if name not in ("autocast-backward", ROUNDING))  # torch's own products are in autocast's type there
PATHS_OF = {"torch": (*_OWN, COMPILED), "cpp": ("eager",), "triton": _KERNELS, "cuda": _KERNELS}
_OUTPUTS = ("traced", "inference")
_FROM = {  # which tokens stand for which
    "one": {"query": "query", "key": "query", "value": "query"},
    "pair": {"query": "query", "key": "key", "value": "key"},
    "asked": {"query": "query", "key": "query", "value": "value"},
    "three": {"query": "query", "key": "key", "value": "value"},
    "wide": {"query": "query", "key": "key", "value": "value"},
}
_SECOND = ("second-order", "forward-mode", "dual-numbers", "forward-over-reverse", "vmap", "per-sample")


@dataclass(frozen=True)
class Kind:
    """The module of the package."""

    name: str = NAME
    layer: str = NAME
    centred: bool = False


KINDS = (Kind(),)


def factors(kind: Kind, backend: str, path: str) -> tuple[dict[str, tuple[Any, ...]], tuple[str, ...]]:
    """Return the factors of attention on a target, with their levels; edges are among them."""
    low = ("float32", "bfloat16") if backend == "torch" and path in ("eager", "recorded", "autocast") else ("float32",)
    found: dict[str, tuple[Any, ...]] = {
        "backend": (backend,),
        "dtype": ("float64", *low),
        "scores": ("plain", "qk_norm") if backend == "torch" else ("qk_norm",),
        "values": ("projected", "value_path"),
        "tokens": ("one", "pair", "asked", "three", "wide"),  # query is key is value; key is value; query is key; none
        "added": ("none", "zeros", "bias_kv", "both"),
        "mask": ("none", "bool", "bool of heads", "float", "causal"),
        "padding": ("none", "bool", "float"),
        "weights": ("none", "averaged", "by head"),
        "first": (True, False),
        "batched": (True, False),
        "wanted": ("all", "tokens", "parameters"),
        "layout": ("plain", "strided"),
    }
    if path in (COMPILED, "traced", "fake"):
        found |= {"layout": ("plain",), "dtype": ("float32",), "wanted": ("all",), "batched": (True,)}
    if path == COMPILED:
        found |= {"mask": ("bool of heads",), "padding": ("bool",), "first": (True,), "weights": ("averaged",)}
        found |= {"added": ("none",), "tokens": ("one",), "scores": ("qk_norm",)}
    if path in _SECOND:
        found |= {"weights": ("averaged", "by head"), "first": (True,), "layout": ("plain",)}
    if path in _OUTPUTS:
        found |= {"wanted": ("all",)}
    if backend != "torch":
        found |= {"padding": ("none",), "mask": ("none", "bool"), "added": ("none",), "values": ("projected",)}
        found |= {"tokens": ("one", "three")}
    return found, ("a query of zeros",) if path in ("eager", "recorded") else ()


RULES = (
    Rule(("values", "added"), lambda values, added: values != "value_path" or added in ("none", "zeros")),
    *only("mask", "causal", tokens=("one",)),
    *only("edge", "a query of zeros", scores=("qk_norm",), tokens=("three", "wide")),
)


def instance(kind: Kind, row: Row, generator: torch.Generator, device: str = "cpu") -> Instance:
    """Return a module at random values as a row of settings says."""
    dtype, wide, tokens = TYPES[row["dtype"]], _HEADS * _WIDTH, row["tokens"]
    first, batched = row["first"], row["batched"]
    asking, answering = _ASKING, _ASKING if tokens in ("one", "asked") else _ANSWERING
    widths = (wide, wide + 1, wide + 2) if tokens == "wide" else (wide, wide, wide)
    module = target.package().AffineLikeMultiheadAttention(
        wide,
        _HEADS,
        batch_first=first,
        kdim=widths[1],
        vdim=widths[2],
        add_zero_attn=row["added"] in ("zeros", "both"),
        add_bias_kv=row["added"] in ("bias_kv", "both"),
        value_path=row["values"] == "value_path",
        qk_norm=row["scores"] == "qk_norm",
        backend=row["backend"],
    )
    names = {"one": ("query",), "pair": ("query", "key"), "asked": ("query", "value")}.get(tokens, ("query", "key", "value"))
    batch = _BATCH if batched else 1
    values = {}
    for name, length, n in zip(("query", "key", "value"), (asking, answering, answering), widths, strict=True):
        if name in names:
            values[name] = _drawn(generator, batch, length, n)
    if row["edge"] == "a query of zeros":
        values["query"][0] = 0
    parameters = {name: _drawn(generator, *p.shape) for name, p in module.named_parameters()}
    if row["edge"] == "a query of zeros":
        parameters["in_proj_bias"][:wide] = 0
    masks = _masks(row, batch, asking, answering, generator)
    causal = row["mask"] == "causal"

    def laid(t: Tensor) -> Tensor:
        return (t if first else t.transpose(0, 1)) if batched else t.squeeze(0)

    def call(inner: Any, *given: Tensor) -> Tensor:
        by_name = dict(zip(names, given, strict=True))
        each = [by_name.get(name, by_name[other]) for name, other in _FROM[tokens].items()]
        mask, padding = (None if m is None else m.to(given[0].device) for m in masks)
        padding = padding if padding is None or batched else padding[0]
        mask = mask.to(given[0].dtype) if mask is not None and mask.is_floating_point() else mask
        padding = padding.to(given[0].dtype) if padding is not None and padding.is_floating_point() else padding
        output, weights = inner(
            *each,
            key_padding_mask=padding,
            need_weights=row["weights"] != "none",
            attn_mask=mask,
            average_attn_weights=row["weights"] == "averaged",
            is_causal=causal,
        )
        return _joined(output, weights)

    def reference(v: Named) -> Tensor:
        each = [v[name] if name in names else v[other] for name, other in _FROM[tokens].items()]
        each = [t if not batched or first else t.transpose(0, 1) for t in each]
        each = each if batched else [t.unsqueeze(0) for t in each]
        z, weights = by_hand(v, each, masks, row)
        shown = None
        if row["weights"] != "none":
            shown = weights.mean(1) if row["weights"] == "averaged" else weights
            shown = shown if batched else shown.squeeze(0)
        return _joined(laid(z), shown)

    inputs = {name: laid(t) for name, t in values.items()}
    every = {name: t.to(device, dtype) for name, t in {**inputs, **parameters}.items()}
    whole = {"all": tuple(every), "tokens": tuple(inputs), "parameters": tuple(parameters)}[row["wanted"]]
    with torch.no_grad():
        z = reference({name: t.double() for name, t in every.items()})
    return Instance(
        module=module.to(device, dtype),
        call=call,
        inputs=names,
        values=every,
        reference=reference,
        g=_drawn(generator, *z.shape).to(device, dtype),
        wanted=whole,
        laid=LAYOUTS[row["layout"]],
        slack=5.0,
    )


def _joined(output: Tensor, weights: Tensor | None) -> Tensor:
    """Return the output and the weights as one vector, so that one gradient goes through both."""
    return output.flatten() if weights is None else torch.cat([output.flatten(), weights.flatten()])


def _masks(row: Row, batch: int, asking: int, answering: int, generator: torch.Generator) -> tuple[Any, Any]:
    """Return the mask of the scores and that of the keys; every query sees the first key."""
    mask = padding = None
    if row["mask"] != "none":
        shape = (batch * _HEADS, asking, answering) if row["mask"] == "bool of heads" else (asking, answering)
        mask = torch.rand(shape, generator=generator) < 0.4
        if row["mask"] == "causal":
            mask = torch.ones(asking, answering, dtype=torch.bool).triu(1)
        mask[..., 0] = False
        if row["mask"] == "float":
            mask = 0.5 * _drawn(generator, *shape).float().double()
    if row["padding"] != "none":
        padding = torch.rand((batch, answering), generator=generator) < 0.4
        padding[:, 0] = False
        if row["padding"] == "float":
            padding = 0.5 * _drawn(generator, batch, answering)
    halves = torch.bfloat16  # numbers that every type holds
    return tuple(m.to(halves).double() if m is not None and m.is_floating_point() else m for m in (mask, padding))


def by_hand(v: Named, tokens: list[Tensor], masks: tuple[Any, Any], row: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the output (N, L, E) and the weights (N, H, L, S) of tokens (N, L, E), (N, S, kdim) and (N, S, vdim)."""
    query, key, value = tokens
    wide, heads = query.shape[-1], _HEADS
    width = wide // heads
    if "in_proj_weight" in v:
        weights = v["in_proj_weight"].chunk(3)
    else:
        weights = tuple(v[f"{letter}_proj_weight"] for letter in "qkv")
    biases = v["in_proj_bias"].chunk(3)

    def split(t: Tensor) -> Tensor:
        return t.unflatten(-1, (heads, width)).transpose(1, 2)

    q, k = (split(mapped_rows("affine-like", t, W, b, 1.0)) for t, W, b in zip((query, key), weights, biases, strict=False))
    mixing = row["values"] == "value_path"
    values = split(mapped_rows("affine-like", value, weights[2], biases[2], 1.0))
    seen = torch.ones(key.shape[1], dtype=torch.bool, device=query.device)
    if "bias_k" in v:
        batch = len(query)
        k, values = (
            torch.cat([t, v[name].reshape(1, heads, 1, width).expand(batch, -1, -1, -1)], 2)
            for t, name in ((k, "bias_k"), (values, "bias_v"))
        )
        seen = F.pad(seen, (0, 1))
    if row["added"] in ("zeros", "both"):
        k, values, seen = F.pad(k, (0, 0, 0, 1)), F.pad(values, (0, 0, 0, 1)), F.pad(seen, (0, 1))
    if row["scores"] == "qk_norm":
        scores = math.sqrt(width) * _unit(q) @ _unit(k).mT
    else:
        scores = q @ k.mT / math.sqrt(width)
    for mask, axes in zip(masks, ("scores", "keys"), strict=True):
        if mask is not None:
            mask = mask.to(scores.device)
            added = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask
            if axes == "keys":
                added = added[:, None, None]
            elif added.dim() == 3:
                added = added.unflatten(0, (-1, heads))
            scores = scores + F.pad(added, (0, scores.shape[-1] - mask.shape[-1]))
    chances = torch.softmax(scores, -1)
    if mixing:
        kept = chances[..., : key.shape[1]]
        shares = kept / kept.sum(-1, keepdim=True)
        mixed = torch.einsum("nhls,nsv->nhlv", shares, value)
        W, b = weights[2].unflatten(0, (heads, width)), biases[2].unflatten(0, (heads, width))
        context = torch.stack([mapped_rows("affine-like", mixed[:, h], W[h], b[h], 1.0) for h in range(heads)], 1)
    else:
        context = chances @ values
    rows = context.transpose(1, 2).flatten(2)
    return mapped_rows("affine-like", rows, v["out_proj.weight"], v["out_proj.bias"], 1.0), chances


def _unit(t: Tensor) -> Tensor:
    """Return rows of length one; zero stays zero."""
    squares = t.square().sum(-1, keepdim=True)
    alive = squares > 0
    return torch.where(alive, 1 / torch.where(alive, squares, 1.0).sqrt(), 0.0) * t


def _drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
