"""What modules are beside their map: states, defaults, first weights, refusals, padding, dropout."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verify.checks import target
from verify.checks.combinations import patches, rows
from verify.checks.combinations.named import Case, error, refused, said, task
from verify.checks.record import Task

_BOUND = 1e-10
_MANY = 40_000  # numbers, of which a deviation is known to a third of a per cent
_DEVIATION = 0.03
_DRAWS = 4000  # of dropout
_STATE = "states, defaults, first values and texts, as torch's own layer has them"
_REFUSALS = "calls that have no meaning are refused"


def tasks(layer: str) -> list[Task]:
    """Return the checks of the modules that belong to a word of the command line."""
    found = []
    for kind in rows.KINDS:
        if kind.layer == layer:
            found.append(_task(kind.name, "module", layer, _STATE, partial(_row_module, kind)))
            found.append(_task(kind.name, "refusals", layer, _REFUSALS, partial(_row_refusals, kind)))
    for patch in patches.KINDS:
        if patch.layer == layer:
            found.append(_task(patch.name, "module", layer, _STATE, partial(_patch_module, patch)))
            found.append(_task(patch.name, "refusals", layer, _REFUSALS, partial(_patch_refusals, patch)))
    if layer in _PADDINGS:
        found.append(_task(layer, "padding", layer, "against torch's own geometry", _PADDINGS[layer]))
    if layer == "attention":
        found.append(_task(layer, "module", layer, _STATE, _attention_module))
        found.append(_task(layer, "refusals", layer, _REFUSALS, _attention_refusals))
        found.append(_task(layer, "dropout", layer, "means, shares and evaluation", _dropout))
    return found


def _task(name: str, what: str, layer: str, text: str, cases: Callable[[], Iterator[tuple[str, Case]]]) -> Task:
    equation = "attention-projection/affine-like/forward" if name == "attention" else f"{name}/forward"
    return task(f"path/{name}/{what}", layer, equation, text, lambda: dict(cases()), _BOUND)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _same_state(ours: nn.Module, theirs: nn.Module) -> float:
    """Return 0 if states have the same names in one order and the same shapes, and load both ways."""
    mine, other = ours.state_dict(), theirs.state_dict()
    same = list(mine) == list(other) and [t.shape for t in mine.values()] == [t.shape for t in other.values()]
    if not same or [n for n, _ in ours.named_parameters()] != [n for n, _ in theirs.named_parameters()]:
        return math.inf
    ours.load_state_dict(other)
    theirs.load_state_dict(ours.state_dict())
    return said(all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), other.values(), strict=True)))


def _first_values(make: Callable[..., Any], deviation: float | None, weights: tuple[str, ...] = ("weight",)) -> float:
    """Return 0 if first weights have the deviation and first biases are zero."""
    module = make()
    for name in weights:
        w = module.get_parameter(name).detach()
        if deviation is not None and not abs(float(w.square().mean().sqrt()) / deviation - 1) < _DEVIATION:
            return math.inf
        if not abs(float(w.mean())) < _DEVIATION * float(w.std()):
            return math.inf
    biases = [p for name, p in module.named_parameters() if name.endswith("bias")]
    return said(all(not b.any() for b in biases))


def _torchs_values(make: Callable[..., nn.Module], theirs: Callable[[], nn.Module]) -> float:
    """Return 0 if first values drawn as torch does are those of torch's layer at the same seed."""
    torch.manual_seed(5)
    ours = make(init="torch")
    torch.manual_seed(5)
    other = theirs()
    mine, drawn = ours.state_dict(), other.state_dict()
    return said(all(torch.equal(mine[name], drawn[name]) for name in mine))


def _copies(module: nn.Module, *inputs: Tensor) -> float:
    """Return the error of a copy, and of the module in another type, against the module."""
    z = module(*inputs)
    again = copy.deepcopy(module)(*inputs)
    single = copy.deepcopy(module).float()(*(t.float() for t in inputs))
    return max(error(again, z), said(error(single, z, torch.float32) < 1e-3))


def _variance(make: Callable[[], nn.Module], x: Tensor, expected: float) -> float:
    """Return 0 if the outputs of a fresh module have the variance that its map keeps."""
    z = make().double()(x).detach()
    return said(abs(float(z.square().mean()) / expected - 1) < 0.1)


def _row_module(kind: rows.Kind) -> Iterator[tuple[str, Case]]:
    ad = target.package()
    settings: dict[str, Any] = {"bias": kind.biased, **({"center": True} if kind.centred else {})}
    make = partial(getattr(ad, rows.CLASSES[kind.form]), **settings)
    theirs = partial(nn.Linear, bias=kind.biased)
    norm, kappa = kind.form == "norm-like", 3.3
    share = kappa - 1 if norm and kind.biased else kappa
    default = 2.0 if norm and kind.biased else 1.0
    yield "state", lambda _: _same_state(make(4, 3), theirs(4, 3))
    yield "default of kappa", lambda _: said(make(4, 3).kappa == default)
    yield "default of the function", lambda g: _row_default(kind, default, g)
    yield "first values", lambda _: _first_values(partial(make, 200, 200, kappa=kappa), 1 / math.sqrt(share))
    yield "first values by default", lambda _: _first_values(partial(make, 200, 200), 1.0)
    yield "torch's first values", lambda _: _torchs_values(partial(make, 4, 3), partial(theirs, 4, 3))
    yield "variance of outputs", lambda g: _variance(partial(make, 30, 2000, kappa=kappa), _normal(g, 20, 30), 30 / 31 if not norm else 1.0)
    yield "copies", lambda g: _copies(make(4, 3).double(), _normal(g, 5, 4))
    yield "without values", lambda _: said(make(4, 3, device="meta", dtype=torch.bfloat16)(torch.empty(2, 5, 4, device="meta", dtype=torch.bfloat16)).shape == (2, 5, 3))
    yield "type and device", lambda _: said(make(4, 3, dtype=torch.float16).weight.dtype is torch.float16)


def _row_default(kind: rows.Kind, default: float, generator: torch.Generator) -> float:
    function = getattr(target.package().functional, kind.form.replace("-", "_"))
    x, W = _normal(generator, 5, 4), _normal(generator, 3, 4)
    given = (x, W, _normal(generator, 3)) if kind.biased else (x, W)
    more = {"center": True} if kind.centred else {}
    return error(function(*given, **more), function(*given, **more, kappa=default))


def _row_refusals(kind: rows.Kind) -> Iterator[tuple[str, Case]]:
    ad = target.package()
    make, function = getattr(ad, rows.CLASSES[kind.form]), getattr(ad.functional, kind.form.replace("-", "_"))
    least = 1.0 if kind.form == "norm-like" and kind.biased else 0.0
    more: dict[str, Any] = {"center": True} if kind.centred else {}
    bad = (TypeError, ValueError)
    for size in (3, 40):  # above a thousand numbers another way is taken
        x, W, b = torch.randn(40, size), torch.randn(5, size), torch.randn(5) if kind.biased else None
        function(x, W, b, **more)
        function(x.double(), W.double(), None if b is None else b.double(), **more)
        calls: dict[str, Callable[[], Any]] = {
            "too many features": lambda x=x, W=W, b=b: function(F.pad(x, (0, 1)), W, b, **more),
            "too few features": lambda x=x, W=W, b=b: function(x, F.pad(W, (0, 1)), b, **more),
            "two types": lambda x=x, W=W, b=b: function(x, W.double(), b, **more),
            "integers": lambda x=x, W=W, b=b: function(x.int(), W.int(), None if b is None else b.int(), **more),
            "a vector for a weight": lambda x=x, W=W, b=b: function(x, W[0], b, **more),
            "kappa at its bound": lambda x=x, W=W, b=b: function(x, W, b, least, **more),
            "kappa below its bound": lambda x=x, W=W, b=b: function(x, W, b, least - 0.5, **more),
            "an infinite kappa": lambda x=x, W=W, b=b: function(x, W, b, math.inf, **more),
            "no number for kappa": lambda x=x, W=W, b=b: function(x, W, b, "2", **more),
            "an unknown backend": lambda x=x, W=W, b=b: function(x, W, b, **more, backend="fortran"),
        }
        if kind.biased:
            calls["a bias of another length"] = lambda x=x, W=W: function(x, W, torch.randn(6), **more)
        for name, call in calls.items():
            yield f"{name}, {size} features", lambda _, call=call: refused(call, *bad)
    if kind.form == "affine-like":
        yield "no bias", lambda _: refused(lambda: make(4, 3, bias=False), ValueError)
        yield "no bias of the function", lambda _: refused(lambda: function(x, W, None), ValueError)
    for name, call in {
        "no features": lambda: make(0, 3, bias=kind.biased),
        "half a feature": lambda: make(2.5, 3, bias=kind.biased),
        "kappa of the module": lambda: make(4, 3, bias=kind.biased, kappa=least),
        "an unknown way to draw": lambda: make(4, 3, bias=kind.biased, init="zeros"),
        "an unknown backend of the module": lambda: make(4, 3, bias=kind.biased, backend="fortran"),
    }.items():
        yield name, lambda _, call=call: refused(call, *bad)


def _patch_module(kind: patches.Kind) -> Iterator[tuple[str, Case]]:
    ad = target.package()
    norm, kappa = kind.form == "norm-like", 3.3
    share, default = (kappa - 1 if norm and kind.biased else kappa), 2.0 if norm and kind.biased else 1.0
    settings: dict[str, Any] = {"bias": kind.biased, "form": kind.form}
    settings |= {} if kind.transposed else {"center": kind.centred}
    word = "ConvTranspose" if kind.transposed else "Conv"
    for axes in (1, 2, 3):
        make = partial(getattr(ad, f"PatchNorm{word}{axes}d"), **settings)
        theirs = partial(getattr(nn, f"{word}{axes}d"), bias=kind.biased)
        yield f"state {axes}", lambda _, make=make, theirs=theirs: _same_state(make(4, 6, 2, groups=2), theirs(4, 6, 2, groups=2))
        yield f"torch's first values {axes}", lambda _, make=make, theirs=theirs: _torchs_values(
            partial(make, 4, 6, 2), partial(theirs, 4, 6, 2)
        )
    yield "default of kappa", lambda _: said(make(4, 6, 2).kappa == default)
    yield "default of the function", lambda g: _patch_default(kind, default, g)
    wide = partial(make, 40, 80, (3, 3, 2), kappa=kappa)
    yield "first values", lambda _: _first_values(wide, 1 / math.sqrt(share))
    image = (4, 5, 5, 5)
    yield "copies", lambda g: _copies(make(4, 6, 2, stride=2).double(), _normal(g, 2, *image))
    yield "without values", lambda _: said(
        make(4, 6, 2, device="meta")(torch.empty(2, *image, device="meta")).shape
        == theirs(4, 6, 2, device="meta")(torch.empty(2, *image, device="meta")).shape
    )


def _patch_default(kind: patches.Kind, default: float, generator: torch.Generator) -> float:
    word = "_transpose" if kind.transposed else ""
    function = getattr(target.package().functional, f"patch_norm_conv{word}2d")
    given = [_normal(generator, 2, 3, 4, 4), _normal(generator, 3, 3, 2, 2)]
    given += [_normal(generator, 3)] if kind.biased else []
    more: dict[str, Any] = {"form": kind.form, **({} if kind.transposed else {"center": kind.centred})}
    return error(function(*given, **more), function(*given, **more, kappa=default))


def _patch_refusals(kind: patches.Kind) -> Iterator[tuple[str, Case]]:
    ad = target.package()
    word = "ConvTranspose" if kind.transposed else "Conv"
    settings: dict[str, Any] = {"bias": kind.biased, "form": kind.form}
    settings |= {} if kind.transposed else {"center": kind.centred}
    make = partial(getattr(ad, f"PatchNorm{word}2d"), **settings)
    least = 1.0 if kind.form == "norm-like" and kind.biased else 0.0
    x = torch.randn(2, 4, 5, 5)
    calls: dict[str, Callable[[], Any]] = {
        "kappa at its bound": lambda: make(4, 6, 2, kappa=least),
        "groups that do not divide": lambda: make(4, 6, 2, groups=3),
        "no groups": lambda: make(4, 6, 2, groups=0),
        "a stride of zero": lambda: make(4, 6, 2, stride=0),
        "three lengths of two axes": lambda: make(4, 6, (2, 2, 2)),
        "negative padding": lambda: make(4, 6, 2, padding=-1),
        "an unknown form": lambda: make(4, 6, 2, form="half-like"),
        "an unknown way to draw": lambda: make(4, 6, 2, init="zeros"),
        "other channels": lambda: make(3, 6, 2)(x),
        "one axis less": lambda: make(4, 6, 2)(x[0, 0]),
        "two types": lambda: make(4, 6, 2)(x.double()),
        "integers": lambda: make(4, 6, 2)(x.int()),
    }
    if kind.form == "affine-like":
        calls["no bias"] = lambda: make(4, 6, 2, bias=False)
    if kind.transposed:
        calls["output_padding of a stride"] = lambda: make(4, 6, 2, stride=2, output_padding=2)(x)
        calls["a size out of reach"] = lambda: make(4, 6, 2, stride=2)(x, output_size=(30, 30))
        calls["another padding mode"] = lambda: make(4, 6, 2, padding_mode="circular")
        calls["an output without positions"] = lambda: make(4, 6, 2, padding=4)(x)
    else:
        calls["a kernel that does not fit"] = lambda: make(4, 6, 7)(x)
        calls["padding 'same' with a stride"] = lambda: make(4, 6, 2, padding="same", stride=2)
        calls["an unknown padding mode"] = lambda: make(4, 6, 2, padding_mode="mirror")
    for name, call in calls.items():
        yield name, lambda _, call=call: refused(call, TypeError, ValueError)


def _plain(module: Any, theirs: nn.Module, x: Tensor, *more: Any) -> float:
    """Return the error of what a module takes products of, against torch's own layer with its parameters.

    At an affine-like map of weights one, a bias of zero and channels of one size the output tells the geometry.
    """
    with torch.no_grad():
        for p, q in zip(module.parameters(), theirs.parameters(), strict=True):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
            q.copy_(p)
        ones = copy.deepcopy(theirs)
        for name, q in ones.named_parameters():
            q.fill_(0.0 if name == "bias" else 1.0)
    energy = ones(x.square(), *more)  # of every patch, for the padding of squares is the square of the padding
    expected = theirs(x, *more) / (energy + 1).sqrt()
    return error(module(x, *more), expected)


def _paddings() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    settings: tuple[dict[str, Any], ...] = (
        {"padding": "same"},
        {"padding": "same", "dilation": (2, 1)},
        {"padding": "valid"},
        *({"padding": (1, 2), "padding_mode": mode} for mode in ("reflect", "replicate", "circular")),
        {"padding": "same", "padding_mode": "reflect"},
        {"padding": (0, 2), "stride": (2, 1)},
    )
    for given in settings:
        for alone in (False, True):

            def case(generator: torch.Generator, given: Mapping[str, Any] = given, alone: bool = alone) -> float:
                x = _normal(generator, 2, 3, 6, 7)
                ours, theirs = (k(3, 4, (2, 3), **given).double() for k in (ad.PatchNormConv2d, nn.Conv2d))
                return _plain(ours, theirs, x[0] if alone else x)

            yield f"{given}{', alone' if alone else ''}", case

    def function(generator: torch.Generator) -> float:
        x, W, b = _normal(generator, 2, 3, 6, 7), _normal(generator, 4, 3, 2, 3), _normal(generator, 4)
        z = ad.functional.patch_norm_conv2d(x, W, b, 1, "same", (2, 1))
        energy = F.conv2d(x.square(), torch.ones_like(W), None, 1, "same", (2, 1))
        return error(z, F.conv2d(x, W, b, 1, "same", (2, 1)) / (energy + 1).sqrt())

    yield "the function", function


def _sizes() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    for given, sizes in (
        ({"stride": 2}, ((7, 8), (8, 9))),
        ({"stride": (3, 2), "padding": 1}, ((9, 6), (8, 7))),
        ({"stride": 2, "output_padding": 1}, (None,)),
        ({"dilation": 2, "output_padding": (0, 1)}, (None,)),
        ({"stride": (2, 1), "groups": 1, "padding": (1, 0)}, (None,)),
    ):
        for size in sizes:

            def case(generator: torch.Generator, given: Any = given, size: Any = size) -> float:
                x = _normal(generator, 2, 3, 3, 4)
                kinds = (ad.PatchNormConvTranspose2d, nn.ConvTranspose2d)
                ours, theirs = (kind(3, 4, (3, 2), **given).double() for kind in kinds)
                return _plain(ours, theirs, x, *(() if size is None else (list(size),)))

            yield f"{given}, {size}", case


_PADDINGS = {"convolution": _paddings, "transposed-convolution": _sizes}


def _attention_module() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    for given in ({}, {"kdim": 3, "vdim": 5}, {"add_bias_kv": True}, {"kdim": 3, "add_bias_kv": True}):
        make, theirs = partial(ad.AffineLikeMultiheadAttention, 4, 2, **given), partial(nn.MultiheadAttention, 4, 2, **given)
        yield f"state {given}", lambda _, make=make, theirs=theirs: _same_state(make(), theirs())
        wide = partial(ad.AffineLikeMultiheadAttention, 100, 2, **{k: v * 40 if k != "add_bias_kv" else v for k, v in given.items()})
        names = ("in_proj_weight",) if "kdim" not in given else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        yield f"first values {given}", lambda _, wide=wide, names=names: _first_values(wide, 1.0, (*names, "out_proj.weight"))

        def bounds(_: torch.Generator, wide: Any = wide, names: Any = names) -> float:
            module = wide(init="torch")
            limits = [math.sqrt(6 / sum(module.get_parameter(n).shape)) for n in names]
            peaks = [float(module.get_parameter(n).detach().abs().max()) for n in names]
            return said(all(0.98 < p / limit <= 1 for p, limit in zip(peaks, limits, strict=True)))

        yield f"torch's first values {given}", bounds
    heads = partial(ad.AffineLikeMultiheadAttention, 16, 4)
    yield "scale of scores", lambda _: said(heads().score_scale == 0.5 and heads(qk_norm=True).score_scale == 2.0)
    yield "the fast path", lambda _: said(heads()._qkv_same_embed_dim is False)
    yield "kappa", lambda _: said(heads().kappa == 1.0 and heads().out_proj.kappa == 1.0)


def _attention_refusals() -> Iterator[tuple[str, Case]]:
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
        yield name, lambda _, call=call: refused(call, TypeError, ValueError)


def _dropout() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    for weights in (True, False):
        for path in (False, True):

            def case(generator: torch.Generator, weights: bool = weights, path: bool = path) -> float:
                """The mean over many draws, for each a sequence of the batch, is what there is without dropout."""
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
                ok = bool((apart < 5).all()) or (path and not weights)
                return said(ok and abs(share - 0.4) < 0.02 and error(again[0], exact[0]) == 0 and contexts[0].std(0).max() > 0)

            yield f"weights {weights}, value_path {path}", case

    def whole(generator: torch.Generator) -> float:
        """The value path divides the weights that dropout leaves by their sum: equal tokens mix to themselves."""
        module = ad.AffineLikeMultiheadAttention(4, 2, 0.5, batch_first=True, value_path=True).double().train()
        query, token = _normal(generator, 200, 2, 4), _normal(generator, 1, 1, 4).expand(200, 6, 4)
        contexts: list[Tensor] = []
        module.out_proj.register_forward_pre_hook(lambda _, given: contexts.append(given[0]))
        module(query, token, token)
        alive = contexts[0].unflatten(-1, (2, 2)).abs().sum(-1) > 0
        exact = contexts[0].unflatten(-1, (2, 2))[alive]
        single = ad.functional.affine_like(token[0, 0], *module._value_projection(), 1.0).unflatten(-1, (2, 2))
        return error(contexts[0].unflatten(-1, (2, 2)), torch.where(alive.unsqueeze(-1), single, 0.0)) + said(len(exact) > 0)

    yield "equal tokens on the value path", whole
    none = partial(ad.AffineLikeMultiheadAttention, 4, 2, 1.0, batch_first=True, value_path=True)
    yield "everything dropped", lambda g: said(
        torch.equal(*(lambda m, x: (m(x, x, x)[0].detach(), m.out_proj(torch.zeros(1, 3, 4)).detach()))(none(), torch.ones(1, 3, 4)))
    )
