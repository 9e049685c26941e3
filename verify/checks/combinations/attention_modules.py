"""Checks of the attention module beyond its map: state dicts, initial values, rejected calls, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from verify.checks import target
from verify.checks.combinations.named import Case, error, later, refusal, said
from verify.checks.combinations.states import first_values, same_state

NAME = "attention"
_DRAWS = 4000  # dropout masks whose mean is compared


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def states() -> Iterator[tuple[str, Case]]:
    """Yield the cases for state dicts, initial values and settings."""
    ad = target.package()
    every: tuple[dict[str, Any], ...]
    every = ({}, {"kdim": 3, "vdim": 5}, {"add_bias_kv": True}, {"kdim": 3, "add_bias_kv": True})
    for given in every:
        make = partial(ad.AffineLikeMultiheadAttention, 4, 2, **given)
        theirs = partial(nn.MultiheadAttention, 4, 2, **given)
        yield f"state {given}", later(same_state, make(), theirs())
        wider = {name: 40 * value if name != "add_bias_kv" else value for name, value in given.items()}
        wide = partial(ad.AffineLikeMultiheadAttention, 100, 2, **wider)
        names = ("in_proj_weight",) if "kdim" not in given else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        yield f"first values {given}", later(first_values, wide, 1.0, (*names, "out_proj.weight"))

        def bounds(_: torch.Generator, wide: Any = wide, names: Any = names) -> float:
            module = wide(init="torch")
            limits = [math.sqrt(6 / sum(module.get_parameter(n).shape)) for n in names]
            peaks = [float(module.get_parameter(n).detach().abs().max()) for n in names]
            return said(all(0.98 < p / limit <= 1 for p, limit in zip(peaks, limits, strict=True)))

        yield f"torch's first values {given}", bounds
    heads = partial(ad.AffineLikeMultiheadAttention, 16, 4)
    scales = heads().score_scale == 0.5 and heads(qk_norm=True).score_scale == 2.0
    yield "scale of scores", later(said, scales)
    yield "the fast path", later(said, heads()._qkv_same_embed_dim is False)
    yield "kappa", later(said, heads().kappa == 1.0 and heads().out_proj.kappa == 1.0)


def refusals() -> Iterator[tuple[str, Case]]:
    """Yield the cases for invalid calls, which must be rejected."""
    make = partial(target.package().AffineLikeMultiheadAttention, batch_first=True)
    x, one = torch.randn(2, 3, 4), make(4, 2)
    calls: dict[str, Callable[[], Any]] = {
        "no bias": lambda: make(4, 2, bias=False),
        "heads that do not divide": lambda: make(4, 3),
        "dropout above one": lambda: make(4, 2, dropout=1.5),
        "a value that is learnt on the value path": lambda: make(4, 2, value_path=True, add_bias_kv=True),
        "another width": lambda: one(torch.randn(2, 3, 5), x, x),
        "another batch": lambda: one(x, x[:1], x[:1]),
        "keys without values": lambda: one(x, x, x[:, :2]),
        "one side without a batch": lambda: one(x[0], x, x),
        "a mask of integers": lambda: one(x, x, x, attn_mask=torch.zeros(3, 3, dtype=torch.int)),
        "a mask of another shape": lambda: one(x, x, x, attn_mask=torch.zeros(3, 4)),
        "a stack of too few masks": lambda: one(x, x, x, attn_mask=torch.zeros(2, 3, 3)),
        "padding of another shape": lambda: one(x, x, x, key_padding_mask=torch.zeros(2, 4)),
        "causal without a mask": lambda: one(x, x, x, is_causal=True),
        "two types": lambda: one(x.double(), x.double(), x.double()),
    }
    for name, call in calls.items():
        yield name, refusal(call, TypeError, ValueError)


def dropout() -> Iterator[tuple[str, Case]]:
    """Yield the cases for dropout of attention weights."""
    ad = target.package()
    for weights in (True, False):
        for path in (False, True):

            def case(generator: torch.Generator, weights: bool = weights, path: bool = path) -> float:
                """The mean over many draws (each a sequence of the batch) equals the result without dropout."""
                module = ad.AffineLikeMultiheadAttention(4, 2, 0.4, batch_first=True, value_path=path).double()
                query, key, value = (_normal(generator, 1, n, 4).expand(_DRAWS, -1, -1) for n in (2, 3, 3))
                module.out_proj.register_forward_pre_hook(lambda _, given: contexts.append(given[0]))
                contexts: list[Tensor] = []
                settings = {"need_weights": weights, "average_attn_weights": False}
                found = module.train()(query, key, value, **settings)
                exact = module.eval()(query[:1], key[:1], value[:1], **settings)
                again = module(query[:1], key[:1], value[:1], **settings)
                drawn, sure = (found[1], exact[1]) if weights else contexts[:2]
                apart = (drawn.mean(0) - sure[0]).abs() / (drawn.std(0) / math.sqrt(_DRAWS))
                share = float((found[1] == 0).double().mean()) if weights else 0.4
                near = bool((apart < 5).all()) or (path and not weights)
                steady = error(again[0], exact[0]) == 0 and float(contexts[0].std(0).max()) > 0
                return said(near and steady and abs(share - 0.4) < 0.02)

            yield f"weights {weights}, value_path {path}", case

    def whole(generator: torch.Generator) -> float:
        """The value path renormalises the weights that dropout keeps: equal tokens average to themselves."""
        module = ad.AffineLikeMultiheadAttention(4, 2, 0.5, batch_first=True, value_path=True).double().train()
        query, token = _normal(generator, 200, 2, 4), _normal(generator, 1, 1, 4).expand(200, 6, 4)
        contexts: list[Tensor] = []
        module.out_proj.register_forward_pre_hook(lambda _, given: contexts.append(given[0]))
        module(query, token, token)
        alive = contexts[0].unflatten(-1, (2, 2)).abs().sum(-1) > 0
        exact = contexts[0].unflatten(-1, (2, 2))[alive]
        single = ad.functional.affine_like(token[0, 0], *module._value_projection(), 1.0).unflatten(-1, (2, 2))
        return error(contexts[0].unflatten(-1, (2, 2)), torch.where(alive.unsqueeze(-1), single, 0.0)) + said(
            len(exact) > 0
        )

    yield "equal tokens on the value path", whole

    def nothing(generator: torch.Generator) -> float:
        """If every weight is dropped, the output is that of a zero context."""
        module = ad.AffineLikeMultiheadAttention(4, 2, 1.0, batch_first=True, value_path=True).double()
        x = _normal(generator, 1, 3, 4)
        return error(module(x, x, x)[0], module.out_proj(torch.zeros_like(x)))

    yield "everything dropped", nothing
