"""Checks of ``convert`` and ``revert``: the new layers, and what must stay: objects, parameters, ties, hooks, modes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from verify.checks import target
from verify.checks.combinations import whole_models
from verify.checks.combinations.named import Case, error, said, task
from verify.checks.record import Task

Call = Callable[[Any, Tensor], Tensor]
_BOUND = 1e-12
_WHAT = "convert and revert"


def tasks(layer: str) -> list[Task]:
    """Return the conversion checks for a layer name of the command line."""
    found = []
    for name, (home, equation, cases) in _CASES.items():
        if home == layer:
            found.append(task(name, layer, equation, _WHAT, lambda cases=cases: dict(cases()), _BOUND))  # type: ignore[misc]
    return found


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _becomes(theirs: Callable[[], Any], ours: Callable[[], Any], call: Call, *shape: int, **given: Any) -> Case:
    """Return the case of a layer that converts to ours with the same settings, and back."""

    def case(generator: torch.Generator) -> float:
        layer, x = theirs().double(), _normal(generator, *shape)
        with torch.no_grad():
            for p in layer.parameters():
                p.copy_(_normal(generator, *p.shape))
        wanted = ours().double()
        wanted.load_state_dict(layer.state_dict())
        model = nn.ModuleDict({"layer": layer, "rest": nn.ReLU()})
        before = {n: (copy.copy(m.__dict__), type(m)) for n, m in model.named_modules()}
        plain, parameters = call(layer, x), dict(model.named_parameters())
        report = target.package().convert(model, **given)
        same = all(model.get_parameter(n) is p for n, p in parameters.items()) and model["layer"] is layer
        settings = _settings(layer).items() >= _settings(wanted).items() and type(layer) is type(wanted)
        found = error(call(layer, x), call(wanted, x))
        told = [(r.name, r.new) for r in report.replaced] == [("layer", type(wanted).__name__)]
        again = target.package().convert(model)
        back = target.package().revert(model)
        restored = all((m.__dict__, type(m)) == before[n] for n, m in model.named_modules()) and len(back.replaced) == 1
        held = same and settings and told and not again.replaced and restored
        return max(found, error(call(layer, x), plain), said(held))

    return case


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return a module's attributes, without parameters, training mode and conversion record."""
    inside = {*nn.Module().__dict__, "_before_conversion", "in_proj_covariance"}
    known = {name: value for name, value in module.__dict__.items() if name not in inside}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in known.items() if name in _OURS}


_OURS = {
    "kappa",
    "init",
    "backend",
    "form",
    "center",
    "recompute",
    "padding",
    "padding_mode",
    "stride",
    "dilation",
    "groups",
    "output_padding",
    "kernel_size",
    "in_features",
    "out_features",
    "in_channels",
    "out_channels",
    "embed_dim",
    "num_heads",
    "dropout",
    "batch_first",
    "kdim",
    "vdim",
    "head_dim",
    "add_zero_attn",
    "value_path",
    "qk_norm",
    "score_scale",
    "_ends",
}


def _forward(module: Any, x: Tensor) -> Tensor:
    z: Tensor = module(x)
    return z


def _affine() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    yield "Linear", _becomes(partial(nn.Linear, 4, 3), partial(ad.AffineLike, 4, 3), _forward, 5, 4)
    without = partial(nn.Linear, 4, 3, False)
    norm = partial(ad.NormLike, 4, 3, False)
    yield "Linear without a bias", _becomes(without, norm, _forward, 5, 4, without_bias="norm-like")
    yield from whole_models.cases()


def _convolutions() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    for axes, given in (
        (1, {"stride": 2, "padding": 1, "dilation": 2}),
        (2, {"padding": "same", "groups": 2}),
        (2, {"padding": (1, 2), "padding_mode": "circular"}),
        (2, {"padding": (0, 1), "padding_mode": "reflect", "stride": (1, 2)}),
        (3, {"groups": 2, "padding": (1, 0, 1), "dilation": (1, 2, 1)}),
    ):
        kinds = (getattr(nn, f"Conv{axes}d"), getattr(ad, f"PatchNormConv{axes}d"))
        theirs, ours = (partial(kind, 4, 6, (3, 2, 2)[:axes], **given) for kind in kinds)
        yield f"Conv{axes}d {given}", _becomes(theirs, ours, _forward, 2, 4, *(6, 7, 5)[:axes])
    theirs = partial(nn.Conv2d, 4, 6, 2, bias=False, stride=2)
    ours = partial(ad.PatchNormConv2d, 4, 6, 2, bias=False, stride=2, form="norm-like")
    yield "Conv2d without a bias", _becomes(theirs, ours, _forward, 2, 4, 6, 7, without_bias="norm-like")
    skipped = partial(nn.Conv2d, 4, 6, 2, bias=False)
    yield "skipped without a bias", lambda _: said(not ad.convert(skipped()).replaced)


def _transposed() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    for axes, given in (
        (1, {"stride": 2, "padding": 1, "output_padding": 1}),
        (2, {"stride": (2, 1), "dilation": (1, 2), "output_padding": (1, 1), "groups": 2}),
        (3, {"padding": (1, 0, 1), "groups": 2}),
    ):
        kinds = (getattr(nn, f"ConvTranspose{axes}d"), getattr(ad, f"PatchNormConvTranspose{axes}d"))
        theirs, ours = (partial(kind, 4, 6, (3, 2, 2)[:axes], **given) for kind in kinds)
        yield f"ConvTranspose{axes}d {given}", _becomes(theirs, ours, _forward, 2, 4, *(4, 3, 3)[:axes])


def _to_itself(module: Any, x: Tensor) -> Tensor:
    output, weights = module(*(x[..., :width] for width in (4, module.kdim, module.vdim)))
    return torch.cat([output.flatten(), weights.flatten()])


def _attention() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    for given in (
        {},
        {"batch_first": True},
        {"add_zero_attn": True},
        {"add_bias_kv": True, "batch_first": True},
        {"kdim": 3, "vdim": 5},
        {"dropout": 0.0, "kdim": 5, "add_zero_attn": True, "batch_first": True},
    ):
        theirs = partial(nn.MultiheadAttention, 4, 2, **given)
        ours = partial(ad.AffineLikeMultiheadAttention, 4, 2, **given)
        yield f"MultiheadAttention {given}", _becomes(theirs, ours, _to_itself, 3, 2, 5)

    def dropout(_: torch.Generator) -> float:
        layer = nn.MultiheadAttention(4, 2, 0.3)
        ad.convert(layer)
        return said(layer.dropout == 0.3 and type(layer.out_proj).__name__ == "AffineLike")

    def drawn(_: torch.Generator) -> float:
        layer = nn.MultiheadAttention(60, 2)
        ad.convert(layer, init="variance-preserving")
        weights = (layer.in_proj_weight, layer.out_proj.weight)
        return said(all(abs(float(w.detach().std()) - 1) < 0.05 for w in weights) and not layer.in_proj_bias.any())

    yield "dropout and the output", dropout
    yield "values drawn anew", drawn
    yield "without a bias", lambda _: said(not ad.convert(nn.MultiheadAttention(4, 2, bias=False)).replaced)


def _encoder() -> Iterator[tuple[str, Case]]:
    ad = target.package()
    for first in (True, False):
        for whole in (True, False):

            def case(generator: torch.Generator, first: bool = first, whole: bool = whole) -> float:
                """In eval mode an encoder computes the same as in training mode, without torch's fast path."""
                layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=first).double()
                model: Any = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not first) if whole else layer
                x, before = _normal(generator, 3, 4, 8), {n: copy.copy(m.__dict__) for n, m in model.named_modules()}
                with torch.no_grad():
                    plain = model.eval()(x)
                    ad.convert(model)
                    trained, evaluated = model.train()(x), model.eval()(x)
                    changed = not torch.allclose(trained, plain)
                    ad.revert(model)
                    again = model(x)
                restored = all(m.__dict__ == before[n] | {"training": False} for n, m in model.named_modules())
                return max(error(evaluated, trained), error(again, plain), said(changed and restored))

            yield f"norm first {first}, stacked {whole}", case

    def masked(generator: torch.Generator) -> float:
        """Padding in a stack of layers, for which torch would use nested tensors."""
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True).double(), 2)
        x, padding = _normal(generator, 2, 4, 8), torch.tensor([[False, False, True, True], [False] * 4])
        ad.convert(model)
        with torch.no_grad():
            evaluated = model.eval()(x, src_key_padding_mask=padding)
            trained = model.train()(x, src_key_padding_mask=padding)
        return error(evaluated[~padding], trained[~padding])

    def parts(generator: torch.Generator) -> float:
        """A layer in which only the feed-forward layers are replaced leaves torch's fast path too."""
        model: Any = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True).double()
        x = _normal(generator, 3, 4, 8)
        ad.convert(model, lambda _, name: name.startswith("linear"))
        with torch.no_grad():
            return error(model.eval()(x), model.train()(x))

    yield "padding", masked
    yield "parts of a layer", parts


_CASES = {
    "path/affine/convert": ("affine", "affine-like/forward", _affine),
    "path/convolution/convert": ("convolution", "grouped-convolution/affine-like/forward", _convolutions),
    "path/transposed-convolution/convert": (
        "transposed-convolution",
        "grouped-transposed-convolution/affine-like/forward",
        _transposed,
    ),
    "path/attention/convert": ("attention", "attention-projection/affine-like/forward", _attention),
    "path/attention/encoder": ("attention", "attention-projection/affine-like/forward", _encoder),
}
