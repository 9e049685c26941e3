"""Combinations for attention: settings, masks, dtypes, edge cases and memory layouts, crossed with every path.

The hand-written reference: each head is a softmax of scores over its keys, and projections apply the affine-like map to
each token.
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
from verify.checks.combinations.instance import TYPES, Instance
from verify.checks.combinations.layouts import LAYOUTS
from verify.checks.combinations.paths import COMPILED, PATHS, ROUNDING
from verify.checks.comparison import Named

NAME = "attention"
_HEADS, _WIDTH, _BATCH, _ASKING, _ANSWERING = 2, 3, 3, 4, 5
_KERNELS = ("eager", "second-order", "dual-numbers", "fake")
_OWN = tuple(
    name for name in PATHS if name not in ("autocast-backward", ROUNDING)
)  # under autocast torch's own products have autocast's dtype
PATHS_OF = {"torch": (*_OWN, COMPILED), "cpp": ("eager",), "triton": _KERNELS, "cuda": _KERNELS}
_OUTPUTS = ("traced", "inference")
_FROM = {  # which of query, key and value are the same tensor
    "one": {"query": "query", "key": "query", "value": "query"},
    "pair": {"query": "query", "key": "key", "value": "key"},
    "asked": {"query": "query", "key": "query", "value": "value"},
    "three": {"query": "query", "key": "key", "value": "value"},
    "wide": {"query": "query", "key": "key", "value": "value"},
}
_SECOND = ("second-order", "forward-mode", "dual-numbers", "forward-over-reverse", "vmap", "per-sample")


@dataclass(frozen=True)
class Kind:
    """The generated attention module."""

    name: str = NAME
    layer: str = NAME
    centred: bool = False


KINDS = (Kind(),)


def paths(kind: Kind, backend: str) -> tuple[str, ...]:
    """Return the paths (ways to call the map) that are checked for a backend."""
    return PATHS_OF[backend]


def factors(kind: Kind, backend: str, path: str) -> tuple[dict[str, tuple[Any, ...]], tuple[str, ...]]:
    """Return the factors of attention for a backend, with their levels, and the edge cases."""
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
        found |= {"added": ("none",), "tokens": ("one",), "scores": ("qk_norm",), "values": ("value_path",)}
    if path in _SECOND:
        found |= {"weights": ("averaged", "by head"), "first": (True,), "layout": ("plain",)}
    if path in _OUTPUTS:
        found |= {"wanted": ("all",)}
    if backend != "torch":
        found |= {"padding": ("none",), "mask": ("none", "bool"), "added": ("none",), "values": ("projected",)}
        found |= {"tokens": ("one", "three")}
    return found, ("a query of zeros",) if path in ("eager", "recorded") else ()


def is_left_out(kind: Kind, backend: str, path: str) -> bool:
    """Return whether a path is too slow without ``--full``: none is."""
    return False


RULES = (
    Rule(("values", "added"), lambda values, added: values != "value_path" or added in ("none", "zeros")),
    *only("mask", "causal", tokens=("one",)),
    *only("edge", "a query of zeros", scores=("qk_norm",), tokens=("three", "wide")),
)


@dataclass(frozen=True)
class _Call:
    """How a module is called for a row of settings, and its expected result; ``masks`` are for scores and for keys."""

    row: Row
    masks: tuple[Tensor | None, Tensor | None]

    @property
    def names(self) -> tuple[str, ...]:
        """The distinct token tensors that are passed."""
        return tuple(dict.fromkeys(_FROM[self.row["tokens"]].values()))

    def laid(self, t: Tensor) -> Tensor:
        """Return tokens (N, L, n) in the layout that the module expects."""
        return (t if self.row["first"] else t.transpose(0, 1)) if self.row["batched"] else t.squeeze(0)

    def each(self, given: Named) -> list[Tensor]:
        """Return query, key and value."""
        return [given[name] for name in _FROM[self.row["tokens"]].values()]

    def module(self, inner: Any, *given: Tensor) -> Tensor:
        """Return the joined output and weights of a module for the tokens ``names``."""
        like, row = given[0], self.row
        mask, padding = (
            None if m is None else m.to(like if m.is_floating_point() else like.device) for m in self.masks
        )
        output, weights = inner(
            *self.each(dict(zip(self.names, given, strict=True))),
            key_padding_mask=padding if padding is None or row["batched"] else padding[0],
            need_weights=row["weights"] != "none",
            attn_mask=mask,
            average_attn_weights=row["weights"] == "averaged",
            is_causal=row["mask"] == "causal",
        )
        return _joined(output, weights)

    def reference(self, v: Named) -> Tensor:
        """Return the same from the hand-written reference."""
        row, tokens = self.row, self.each(v)
        if not row["batched"]:
            tokens = [t.unsqueeze(0) for t in tokens]
        elif not row["first"]:
            tokens = [t.transpose(0, 1) for t in tokens]
        z, weights = by_hand(v, tokens, self.masks, row)
        if row["weights"] == "none":
            return _joined(self.laid(z), None)
        shown = weights.mean(1) if row["weights"] == "averaged" else weights
        return _joined(self.laid(z), shown if row["batched"] else shown.squeeze(0))


def instance(kind: Kind, row: Row, generator: torch.Generator, device: str = "cpu") -> Instance:
    """Return a module with random values for a row of settings."""
    dtype, wide, batch = TYPES[row["dtype"]], _HEADS * _WIDTH, _BATCH if row["batched"] else 1
    widths = (wide, wide + 1, wide + 2) if row["tokens"] == "wide" else (wide, wide, wide)
    answering = _ASKING if row["tokens"] in ("one", "asked") else _ANSWERING
    module = _module(row, widths)
    called = _Call(row, _masks(row, batch, _ASKING, answering, generator))
    lengths = dict(
        zip(("query", "key", "value"), zip((_ASKING, answering, answering), widths, strict=True), strict=True)
    )
    tokens = {name: _drawn(generator, batch, *lengths[name]) for name in called.names}
    parameters = {name: _drawn(generator, *p.shape) for name, p in module.named_parameters()}
    if row["edge"] == "a query of zeros":
        tokens["query"][0] = 0
        parameters["in_proj_bias"][:wide] = 0
    inputs = {name: called.laid(t) for name, t in tokens.items()}
    every = {name: t.to(device, dtype) for name, t in {**inputs, **parameters}.items()}
    with torch.no_grad():
        z = called.reference({name: t.double() for name, t in every.items()})
    return Instance(
        module=module.to(device, dtype),
        call=called.module,
        inputs=called.names,
        values=every,
        reference=called.reference,
        g=_drawn(generator, *z.shape).to(device, dtype),
        wanted={"all": tuple(every), "tokens": tuple(inputs), "parameters": tuple(parameters)}[row["wanted"]],
        laid=LAYOUTS[row["layout"]],
        slack=5.0,
    )


def _module(row: Row, widths: tuple[int, int, int]) -> Any:
    return target.package().AffineLikeMultiheadAttention(
        widths[0],
        _HEADS,
        batch_first=row["first"],
        kdim=widths[1],
        vdim=widths[2],
        add_zero_attn=row["added"] in ("zeros", "both"),
        add_bias_kv=row["added"] in ("bias_kv", "both"),
        value_path=row["values"] == "value_path",
        qk_norm=row["scores"] == "qk_norm",
        backend=row["backend"],
    )


def _beside(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask on the device of ``like``; a float mask also takes its dtype."""
    return mask.to(like if mask.is_floating_point() else like.device)


def _joined(output: Tensor, weights: Tensor | None) -> Tensor:
    """Return output and weights as one vector, so that one gradient covers both."""
    return output.flatten() if weights is None else torch.cat([output.flatten(), weights.flatten()])


def _masks(row: Row, batch: int, asking: int, answering: int, generator: torch.Generator) -> tuple[Any, Any]:
    """Return the attention mask and the key padding mask; every query can attend to the first key."""
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
    halves = torch.bfloat16  # rounded to it, the numbers are exact in every dtype
    mask, padding = (m.to(halves).double() if m is not None and m.is_floating_point() else m for m in (mask, padding))
    return mask, padding


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

    q, k = (
        split(mapped_rows("affine-like", t, W, b, 1.0)) for t, W, b in zip((query, key), weights, biases, strict=False)
    )
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
    unit = row["scores"] == "qk_norm"
    scores = math.sqrt(width) * _unit(q) @ _unit(k).mT if unit else q @ k.mT / math.sqrt(width)
    for mask, axes in zip(masks, ("scores", "keys"), strict=True):
        if mask is not None:
            mask = mask.to(scores.device)
            zero = torch.zeros_like(mask, dtype=scores.dtype)
            added = zero.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask
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
    """Return the rows normalised to length one; zero rows stay zero."""
    squares = t.square().sum(-1, keepdim=True)
    alive = squares > 0
    return torch.where(alive, 1 / torch.where(alive, squares, 1.0).sqrt(), 0.0) * t


def _drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
