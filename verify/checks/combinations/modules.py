"""Checks of modules beyond their map: state dicts, defaults, initial weights, rejected calls, padding."""

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
from verify.checks.combinations import attention_modules, patches, rows
from verify.checks.combinations.named import Case, error, later, refusal, said, task
from verify.checks.combinations.states import first_values, same_state
from verify.checks.record import Task

_BOUND = 1e-10
_STATE = "states, defaults, first values and texts, as torch's own layer has them"
_REFUSALS = "calls that have no meaning are refused"


def tasks(layer: str) -> list[Task]:
    """Return the module checks for a layer name of the command line."""
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
    if layer == attention_modules.NAME:
        found.append(_task(layer, "module", layer, _STATE, attention_modules.states))
        found.append(_task(layer, "refusals", layer, _REFUSALS, attention_modules.refusals))
        found.append(_task(layer, "dropout", layer, "means, shares and evaluation", attention_modules.dropout))
    return found


def _task(name: str, what: str, layer: str, text: str, cases: Callable[[], Iterator[tuple[str, Case]]]) -> Task:
    equation = "attention-projection/affine-like/forward" if name == "attention" else f"{name}/forward"
    return task(f"path/{name}/{what}", layer, equation, text, lambda: dict(cases()), _BOUND)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _torchs_values(make: Callable[..., nn.Module], theirs: Callable[[], nn.Module]) -> float:
    """Return 0 if initial values drawn in torch's way equal those of torch's layer at the same seed."""
    torch.manual_seed(5)
    ours = make(init="torch")
    torch.manual_seed(5)
    other = theirs()
    mine, drawn = ours.state_dict(), other.state_dict()
    return said(all(torch.equal(mine[name], drawn[name]) for name in mine))


def _copies(module: nn.Module, shape: tuple[int, ...], generator: torch.Generator) -> float:
    """Return the largest error of a copy, and of the module in another dtype, against the module."""
    x = _normal(generator, *shape)
    z = module(x)
    again = copy.deepcopy(module)(x)
    single = copy.deepcopy(module).float()(x.float())
    return max(error(again, z), said(error(single, z, torch.float32) < 1e-3))


def _variance(make: Callable[[], nn.Module], expected: float, generator: torch.Generator) -> float:
    """Return 0 if the outputs of a new module have the variance ``expected``."""
    z = make().double()(_normal(generator, 20, 30)).detach()
    return said(abs(float(z.square().mean()) / expected - 1) < 0.1)


def _row_module(kind: rows.Kind) -> Iterator[tuple[str, Case]]:
    ad = target.package()
    settings: dict[str, Any] = {"bias": kind.biased, **({"center": True} if kind.centred else {})}
    make = partial(getattr(ad, rows.CLASSES[kind.form]), **settings)
    theirs = partial(nn.Linear, bias=kind.biased)
    norm, kappa = kind.form == "norm-like", 3.3
    share = kappa - 1 if norm and kind.biased else kappa
    default, kept = 2.0 if norm and kind.biased else 1.0, 1.0 if norm else 30 / 31
    halves: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16}
    yield "state", later(same_state, make(4, 3), theirs(4, 3))
    yield "default of kappa", later(said, make(4, 3).kappa == default)
    yield "default of the function", partial(_row_default, kind, default)
    yield "first values", later(first_values, partial(make, 200, 200, kappa=kappa), 1 / math.sqrt(share))
    yield "first values by default", later(first_values, partial(make, 200, 200), 1.0)
    yield "torch's first values", later(_torchs_values, partial(make, 4, 3), partial(theirs, 4, 3))
    yield "variance of outputs", partial(_variance, partial(make, 30, 2000, kappa=kappa), kept)
    yield "copies", partial(_copies, make(4, 3).double(), (5, 4))
    yield "without values", later(said, make(4, 3, **halves)(torch.empty(2, 5, 4, **halves)).shape == (2, 5, 3))
    yield "type", later(said, make(4, 3, dtype=torch.float16).weight.dtype is torch.float16)


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
    for size in (3, 40):  # above a thousand numbers the call takes another code path
        x, W, b = torch.randn(40, size), torch.randn(5, size), torch.randn(5) if kind.biased else None
        for dtype in (torch.float32, torch.float64):  # the first call of each dtype looks for kernels
            function(*(t if t is None else t.to(dtype) for t in (x, W, b)), **more)
        calls: dict[str, Callable[[], Any]] = {
            "too many features": partial(function, F.pad(x, (0, 1)), W, b, **more),
            "too few features": partial(function, x, F.pad(W, (0, 1)), b, **more),
            "two types": partial(function, x, W.double(), b, **more),
            "integers": partial(function, x.int(), W.int(), None if b is None else b.int(), **more),
            "a vector for a weight": partial(function, x, W[0], b, **more),
            "kappa at its bound": partial(function, x, W, b, least, **more),
            "kappa below its bound": partial(function, x, W, b, least - 0.5, **more),
            "an infinite kappa": partial(function, x, W, b, math.inf, **more),
            "no number for kappa": partial(function, x, W, b, "2", **more),
            "an unknown backend": partial(function, x, W, b, **more, backend="fortran"),
        }
        if kind.biased:
            calls["a bias of another length"] = partial(function, x, W, torch.randn(6), **more)
        for name, call in calls.items():
            yield f"{name}, {size} features", refusal(call, *bad)
    if kind.form == "affine-like":
        yield "no bias", refusal(partial(make, 4, 3, bias=False), ValueError)
        yield "no bias of the function", refusal(partial(function, x, W, None), ValueError)
    for name, call in {
        "no features": lambda: make(0, 3, bias=kind.biased),
        "half a feature": lambda: make(2.5, 3, bias=kind.biased),
        "kappa of the module": lambda: make(4, 3, bias=kind.biased, kappa=least),
        "an unknown way to draw": lambda: make(4, 3, bias=kind.biased, init="zeros"),
        "an unknown backend of the module": lambda: make(4, 3, bias=kind.biased, backend="fortran"),
    }.items():
        yield name, refusal(call, *bad)


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
        yield f"state {axes}", later(same_state, make(4, 6, 2, groups=2), theirs(4, 6, 2, groups=2))
        yield f"torch's first values {axes}", later(_torchs_values, partial(make, 4, 6, 2), partial(theirs, 4, 6, 2))
    empty = torch.empty(2, 4, 5, 5, 5, device="meta")
    shapes = [made(4, 6, 2, stride=2, device="meta")(empty).shape for made in (make, theirs)]
    yield "default of kappa", later(said, make(4, 6, 2).kappa == default)
    yield "default of the function", partial(_patch_default, kind, default)
    yield "first values", later(first_values, partial(make, 40, 80, (3, 3, 2), kappa=kappa), 1 / math.sqrt(share))
    yield "copies", partial(_copies, make(4, 6, 2, stride=2).double(), (2, 4, 5, 5, 5))
    yield "without values", later(said, shapes[0] == shapes[1])


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
        yield name, refusal(call, TypeError, ValueError)


def _plain(module: Any, theirs: nn.Module, x: Tensor, *more: Any) -> float:
    """Return the error of the products that a module computes, against torch's own layer with its parameters.

    With an affine-like map, weights one and bias zero, the output identifies the geometry.
    """
    with torch.no_grad():
        for p, q in zip(module.parameters(), theirs.parameters(), strict=True):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
            q.copy_(p)
        ones = copy.deepcopy(theirs)
        for name, q in ones.named_parameters():
            q.fill_(0.0 if name == "bias" else 1.0)
    energy = ones(x.square(), *more)  # of every patch: padding the squares equals squaring the padded input
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
