"""Check the self factors that the package states against the squared gradients of entries of a layer's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from verify.checks import target
from verify.checks.combinations.named import Case, error, later, refusal, said, task
from verify.checks.record import Task

_BOUND = 1e-10
_LOW = 0.02  # relative bound for sums of numbers rounded to 16 bits
_WHAT = "self_factor against squared gradients, with its type"
_ENTRIES = 12
_HALVES = (torch.float16, torch.bfloat16)


def tasks(layer: str) -> list[Task]:
    """Return the self-factor checks for a layer name of the command line."""
    found = _CASES.get(layer)
    if found is None:
        return []
    identity, equation, cases = found
    return [task(identity, layer, equation, _WHAT, lambda: dict(cases()), _BOUND)]


def squared_gradients(module: nn.Module, z: Tensor, entries: list[int]) -> Tensor:
    """Return, for some output entries, the sum of squares of their derivatives with respect to all parameters."""
    parameters, flat = list(module.parameters()), z.flatten()
    found = []
    for entry in entries:
        slopes = torch.autograd.grad(flat[entry], parameters, retain_graph=True, allow_unused=True)
        found.append(sum((d.square().sum() for d in slopes if d is not None), z.new_zeros(())))
    return torch.stack(found)


def stated(module: nn.Module, x: Tensor, *more: Any, unit: int, generator: torch.Generator, groups: int = 1) -> float:
    """Return the error of the stated factor, in float64 and lower dtypes; axis ``unit`` of the output has the units."""
    module = _drawn(module.double(), generator)
    z = module(x, *more)
    found = target.package().self_factor(module, x, *more)
    if groups > 1:  # the channels of a group share one input
        z = z.unflatten(unit, (groups, -1))
        unit += 1
    found = found.unsqueeze(unit)
    entries = torch.randperm(z.numel(), generator=generator)[:_ENTRIES].tolist()
    exact = squared_gradients(module, z, entries)
    worst = error(found.expand(z.shape).flatten()[entries], exact, torch.float64)
    return max(worst, *(_lower(module, x, more, dtype) for dtype in (torch.float32, *_HALVES)))


def _lower(module: nn.Module, x: Tensor, more: tuple[Any, ...], dtype: torch.dtype) -> float:
    """Return 0 if the factor for inputs in another dtype is near that of float64 and has at least float32."""
    low = x.to(dtype) if x.is_floating_point() else x
    given = tuple(t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t for t in more)
    found = target.package().self_factor(module.to(dtype), low, *given)
    module.double()
    wide = tuple(t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in (low, *given))
    exact = target.package().self_factor(module, *wide)
    return said(error(found, exact, torch.float32) < _LOW)


def _drawn(module: nn.Module, generator: torch.Generator) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(_normal(generator, *parameter.shape))
    return module


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _rows(make: Callable[[], nn.Module], *shape: int, zero: bool = False) -> Case:
    def case(generator: torch.Generator) -> float:
        x = _normal(generator, *shape)
        if zero:
            x[0] = 0
            x[1] = 2.0 if getattr(make(), "center", False) else x[1]
        return stated(make(), x, unit=-1, generator=generator)

    return case


def _images(make: Callable[[], Any], *shape: int, zero: str = "") -> Case:
    def case(generator: torch.Generator) -> float:
        module, x = make(), _normal(generator, *shape)
        if zero:
            x[..., :3] = 0 if zero == "zero" else 2.0
        unit = -1 - len(module.kernel_size)
        return stated(module, x, unit=x.dim() + unit, generator=generator, groups=module.groups)

    return case


def _affine() -> Iterator[tuple[str, Case]]:
    yield "Linear", _rows(partial(nn.Linear, 4, 3), 5, 4)
    yield "Linear of a vector", _rows(partial(nn.Linear, 4, 3), 4)
    yield "Linear of two leading axes", _rows(partial(nn.Linear, 4, 3), 2, 3, 4)
    ad = target.package()
    yield "AffineLike", _rows(partial(ad.AffineLike, 4, 3, kappa=2.5), 5, 4)
    yield "NormLike with rows of zeros", _rows(partial(ad.NormLike, 4, 3, kappa=3.5), 5, 4, zero=True)
    yield "centred NormLike", _rows(partial(ad.NormLike, 4, 3, kappa=3.5, center=True), 5, 4, zero=True)


def _linear() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    yield "Linear without a bias", _rows(partial(nn.Linear, 4, 3, False), 5, 4)
    yield "NormLike without a bias", _rows(partial(ad.NormLike, 4, 3, False, kappa=1.5), 5, 4, zero=True)
    yield "centred NormLike without a bias", _rows(partial(ad.NormLike, 4, 3, False, center=True), 5, 4, zero=True)


_SETTINGS: tuple[tuple[int, dict[str, Any]], ...] = (
    (1, {"stride": 2, "padding": 1}),
    (2, {"padding": (0, 2), "dilation": (2, 1), "groups": 2}),
    (2, {"padding": "same", "bias": False, "dilation": 2}),
    (2, {"padding": (1, 2), "padding_mode": "circular"}),
    (3, {"padding": 1, "stride": (1, 2, 1)}),
)


def _convolutions() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    for axes, settings in _SETTINGS:
        make = partial(getattr(nn, f"Conv{axes}d"), 4, 4, (3, 2, 2)[:axes], **settings)
        space = (6, 5, 4)[:axes]
        yield f"Conv{axes}d {settings}", _images(make, 2, 4, *space)
        yield f"Conv{axes}d {settings} without a batch", _images(make, 4, *space)
        biased = settings.get("bias", True)
        for form in ("affine-like", "norm-like") if biased else ("norm-like",):
            for center in (False, True):
                kind, kernel = getattr(ad, f"PatchNormConv{axes}d"), (3, 2, 2)[:axes]
                mine = partial(kind, 4, 4, kernel, form=form, center=center, **settings)
                if axes < 3:
                    yield f"PatchNorm {axes} {form} {center} {settings}", _images(mine, 1, 4, *space, zero="zero")
    constant = partial(ad.PatchNormConv2d, 2, 2, 2, form="norm-like", center=True, kappa=2.5)
    yield "centred patches that are constant", _images(constant, 1, 2, 4, 5, zero="constant")


_TURNED: tuple[tuple[int, dict[str, Any]], ...] = (
    (1, {"stride": 2, "padding": 1, "output_padding": 1}),
    (2, {"stride": (2, 1), "dilation": (1, 2), "output_padding": (1, 1), "groups": 2}),
    (2, {"bias": False, "padding": (1, 0)}),
    (3, {"stride": (1, 2, 1)}),
)


def _transposed() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    for axes, settings in _TURNED:
        kernel, space = (3, 2, 2)[:axes], (3, 4, 2)[:axes]
        make = partial(getattr(nn, f"ConvTranspose{axes}d"), 4, 4, kernel, **settings)
        yield f"ConvTranspose{axes}d {settings}", _images(make, 2, 4, *space)
        yield f"ConvTranspose{axes}d {settings} without a batch", _images(make, 4, *space)
        for form in ("affine-like", "norm-like") if settings.get("bias", True) else ("norm-like",):
            mine = partial(getattr(ad, f"PatchNormConvTranspose{axes}d"), 4, 4, kernel, form=form, **settings)
            if axes < 3:
                yield f"PatchNorm turned {axes} {form} {settings}", _images(mine, 1, 4, *space, zero="zero")


def _look_up(make: Callable[[], nn.Module], x: list[Any], *more: Any) -> Case:
    def case(generator: torch.Generator) -> float:
        given = tuple(torch.tensor(m) if m is not None else None for m in more)
        if len(given) == 2:
            given = (given[0], _normal(generator, *torch.tensor(x).shape))
        return stated(make(), torch.tensor(x), *given, unit=-1, generator=generator)

    return case


def _embedding() -> Iterator[tuple[str, Case]]:
    yield "Embedding", _look_up(partial(nn.Embedding, 5, 3), [[0, 4, 1], [2, 2, 3]])
    yield "Embedding with padding_idx", _look_up(partial(nn.Embedding, 5, 3, padding_idx=2), [[0, 4, 1], [2, 2, 3]])
    yield "Embedding of one token", _look_up(partial(nn.Embedding, 5, 3, padding_idx=0), [1, 0])
    ad, x = target.package(), torch.tensor([1])
    rare = nn.Embedding(5, 3, scale_grad_by_freq=True)
    yield "Embedding with scale_grad_by_freq", refusal(lambda: ad.self_factor(rare, x), ValueError)
    long = nn.Embedding(5, 3, max_norm=0.5)
    yield "Embedding with max_norm", refusal(lambda: ad.self_factor(long, x), ValueError)


def _bags() -> Iterator[tuple[str, Case]]:
    for mode in ("sum", "mean"):
        for padding in (None, 2):
            make = partial(nn.EmbeddingBag, 5, 3, mode=mode, padding_idx=padding)
            yield f"bags of one length, {mode}, {padding}", _look_up(make, [[0, 4, 4], [2, 2, 3]])
            yield f"bags by offsets, {mode}, {padding}", _look_up(make, [0, 4, 4, 2, 2, 3, 1], [0, 2, 3])
            last = partial(make, include_last_offset=True)
            yield f"bags with their end, {mode}, {padding}", _look_up(last, [0, 4, 4, 2, 2, 3, 1], [0, 2, 3, 7])
    yield "weighted bags", _look_up(partial(nn.EmbeddingBag, 5, 3, mode="sum"), [[0, 4, 4], [2, 2, 3]], None, None)


def _attention() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    for bias in (True, False):
        module = nn.MultiheadAttention(4, 2, bias=bias, kdim=3, vdim=5, dtype=torch.float64)
        for width in (4, 3, 5):

            def case(generator: torch.Generator, width: int = width, module: Any = module, bias: bool = bias) -> float:
                x = _normal(generator, 2, 3, width)
                return error(ad.self_factor(module, x), x.square().sum(-1) + bias, torch.float64)

            yield f"MultiheadAttention, bias {bias}, {width} features", case
    mine = ad.AffineLikeMultiheadAttention(4, 2, kdim=3, vdim=5)
    for width in (4, 3, 5):
        x = torch.ones(2, 3, width, dtype=torch.float16)
        yield f"ours, {width} features", later(error, ad.self_factor(mine, x), torch.ones(2, 3), torch.float32)
    yield "a width that it has not", refusal(lambda: ad.self_factor(mine, torch.ones(2, 6)), ValueError)
    yield "a module that is not known", refusal(lambda: ad.self_factor(nn.ReLU(), torch.ones(2)), TypeError)
    yield "integers", refusal(lambda: ad.self_factor(nn.Linear(2, 2), torch.ones(2, dtype=torch.int)), TypeError)


_CASES: Mapping[str, tuple[str, str, Callable[[], Iterator[tuple[str, Case]]]]] = {
    "affine": ("path/affine/self-factor", "affine/self-factor", _affine),
    "linear": ("path/linear/self-factor", "linear/self-factor", _linear),
    "convolution": ("path/convolution/self-factor", "convolution/self-factor", _convolutions),
    "transposed-convolution": (
        "path/transposed-convolution/self-factor",
        "transposed-convolution/self-factor",
        _transposed,
    ),
    "embedding": ("path/embedding/self-factor", "embedding/self-factor", _embedding),
    "embedding-bag": ("path/embedding-bag/self-factor", "embedding-bag/self-factor", _bags),
    "attention": ("path/attention/self-factor", "attention-projection/self-factor", _attention),
}
