"""Subjects for layers without a module in the package: reference modules of the forward maps in torch operations.

A reference module takes inputs and parameters by name and returns the output, all with the axes of the derivation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from derive.forward_map import Layer
from verify.checks import target
from verify.checks.attention_steps import residual
from verify.checks.cases import Case, Draw, Laid, Place, Source, Subject
from verify.checks.references import centred, heads
from verify.derived import derived

Named = Mapping[str, Tensor]
_LARGEST = 4


class Twin(nn.Module):
    """A module that holds a derived layer's parameters and applies a function of inputs and parameters by name."""

    def __init__(
        self, layer: Layer, function: Callable[[Named], Tensor], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        super().__init__()
        self.names = [t.name for t in layer.inputs]
        self.function = function
        for parameter in layer.parameters:
            self.register_parameter(parameter.name, nn.Parameter(torch.empty(shapes[parameter.name])))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output in the layout of the derivation."""
        return self.function({**dict(zip(self.names, inputs, strict=True)), **dict(self.named_parameters())})


def _scores(v: Named) -> Tensor:
    queries, keys = heads(v["x"], v["WQ"], v["bQ"]), heads(v["y"], v["WK"], v["bK"])
    return queries @ keys.mT / math.sqrt(queries.shape[-1])


def _qk_norm(v: Named) -> Tensor:
    queries, keys = heads(v["x"], v["WQ"], v["bQ"]), heads(v["y"], v["WK"], v["bK"])
    return F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT


def _rms(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1) * math.sqrt(x.shape[-1])


def _batch_norm(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.var(0, correction=0).sqrt()


def _affine(x: Tensor, v: Named) -> Tensor:
    return F.linear(x, v["W"], v["b"])


TWINS: dict[str, Callable[[Named], Tensor]] = {
    "attention": _scores,
    "qk-norm>attention": _qk_norm,
    "low-rank": lambda v: v["x"] @ v["A"].T @ v["U"].T,
    "gated": lambda v: F.glu(torch.cat([v["x"] @ v["W"].T, v["x"] @ v["V"].T], -1)),
    "gain": lambda v: v["gamma"] * v["x"] + v["beta"],
    "rms-norm>affine": lambda v: _affine(_rms(v["x"]), v),
    "layer-norm>affine": lambda v: _affine(_rms(centred(v["x"])), v),
    "batch-norm>affine": lambda v: _affine(_batch_norm(v["x"]), v),
    "affine>rms-norm": lambda v: _rms(_affine(v["x"], v)),
    "gain>affine": lambda v: _affine(v["gamma"] * v["x"] + v["beta"], v),
    "affine>gain": lambda v: v["gamma"] * _affine(v["x"], v) + v["beta"],
}
_RESIDUALS = {"attention": False, "qk-norm>attention": True}
_LEAST = {"layer-norm>affine": 3, "batch-norm>affine": 3, "affine>rms-norm": 3, "qk-norm>attention": 2}


def subjects(name: str) -> list[Subject]:
    """Return the subject of a layer with a reference module here; the two look-ups use torch's own modules."""
    if name in ("embedding", "embedding-bag"):
        return [_look_up(name)]

    def draw(random: Draw, kappa: float) -> Case:
        layer = derived(name).layer
        return _instance(random, layer, TWINS[name], _LEAST.get(name, 1))

    return [
        Subject(
            name,
            name,
            lambda: Source(derived(name).layer),
            draw,
            backend="torch.nn",
            samples_apart="batch-norm" not in name,
            residual=partial(residual, affine_like=False, unit=_RESIDUALS[name]) if name in _RESIDUALS else None,
        )
    ]


def _instance(random: Draw, layer: Layer, function: Callable[[Named], Tensor], least: int) -> Case:
    """Return a random instance with the layer's declared axes."""
    sizes = {str(s): random.whole(least, least + 2 if least > 1 else _LARGEST) for s in layer.sizes}

    def shape(axes: tuple[object, ...]) -> tuple[int, ...]:
        return tuple(sizes[str(axis)] for axis in axes)

    module = Twin(layer, function, {t.name: shape(t.axes) for t in layer.parameters})
    return Case(
        module=Laid(random.real(module), lambda inner, *inputs: inner(*inputs)),
        inputs={t.name: random.normal(*shape(t.axes)) for t in layer.inputs},
        g=random.gradient(*shape(tuple(i.size for i in layer.output.indices))),
        places={t.name: Place(t.name) for t in layer.parameters},
        scalars={},
        sizes=sizes,
        eta=random.power(-1, 3),
    )


def _look_up(name: str) -> Subject:
    bag = name == "embedding-bag"

    def draw(random: Draw, kappa: float) -> Case:
        """Return torch's embedding module and the tokens that it looks up."""
        batch, tokens, rows, width = (random.whole(1, _LARGEST) for _ in range(4))
        module = nn.EmbeddingBag(rows, width, mode="sum") if bag else nn.Embedding(rows, width)
        t = torch.randint(rows, (batch, tokens), generator=random.generator).to(random.device)
        return Case(
            module=Laid(random.real(module), lambda inner, t: inner(t)),
            inputs={"t": t},
            g=random.gradient(batch, *(() if bag else (tokens,)), width),
            places={"W": Place("weight")},
            scalars={},
            sizes={"B": batch, "T": tokens, "V": rows, "n": width},
            eta=random.power(-1, 3),
        )

    return Subject(name, name, lambda: Source(derived(name).layer), draw, backend="torch.nn", factor=_stated)


def _stated(case: Case) -> Tensor:
    """Return the self factor that the package states for a look-up, with a trailing unit axis."""
    stated: Tensor = target.package().self_factor(case.module.inner, case.inputs["t"])
    return stated.unsqueeze(-1)
