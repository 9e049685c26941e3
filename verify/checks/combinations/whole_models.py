"""Checks of ``convert`` on whole models: what it replaces and keeps (objects, ties, hooks, modes, optimisers)."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from verify.checks import target
from verify.checks.combinations.named import Case, error, refusal, said


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _model() -> Any:
    bare = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), bare, nn.Linear(4, 4), nn.LayerNorm(4)).double()
    model[3].weight = model[0].weight
    return model


def _ties(_: torch.Generator) -> float:
    ad = target.package()
    model = _model()
    report = ad.convert(model)
    kinds = [type(m).__name__ for m in model]
    skipped = {s.name for s in report.skipped}
    tied = model[3].weight is model[0].weight and kinds == [
        "AffineLike",
        "ReLU",
        "Linear",
        "AffineLike",
        "LayerNorm",
    ]
    return said(tied and skipped == {"2", "4"})


def _hooks(generator: torch.Generator) -> float:
    ad = target.package()
    model, seen = _model().eval(), []
    model[0].register_forward_hook(lambda *_: seen.append("after"))
    model[0].register_forward_pre_hook(lambda *_: seen.append("before"))
    model[0].weight.register_hook(lambda g: seen.append("gradient"))
    model[0].bias.requires_grad_(False)
    ad.convert(model)
    model(_normal(generator, 2, 4)).sum().backward()
    kept = not model[0].training and not model[0].bias.requires_grad and model[0].bias.grad is None
    return said(seen == ["before", "after", "gradient"] and kept)


def _optimiser(generator: torch.Generator) -> float:
    ad = target.package()
    model = _model()
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model[0].bias.detach().clone()
    ad.convert(model)
    model(_normal(generator, 2, 4)).square().sum().backward()
    steps.step()
    return said(not torch.equal(model[0].bias, before))


def _trial(_: torch.Generator) -> float:
    ad = target.package()
    model = _model()
    report = ad.convert(model, dry_run=True)
    return said(len(report.replaced) == 2 and report.dry_run and type(model[0]) is nn.Linear)


def _chosen(_: torch.Generator) -> float:
    ad = target.package()
    model = _model()
    ad.convert(model, lambda module, name: name == "3")
    return said([type(m).__name__ for m in model][:4] == ["Linear", "ReLU", "Linear", "AffineLike"])


def _drawn(_: torch.Generator) -> float:
    ad = target.package()
    model: Any = nn.Sequential(nn.Linear(300, 300), nn.Conv2d(30, 30, 5))
    report = ad.convert(model, init="variance-preserving")
    near = all(abs(float(m.weight.detach().std()) - 1) < 0.05 and not m.bias.any() for m in model)
    other: Any = nn.Linear(300, 300)
    ad.convert(other, init="torch")
    return said(near and len(report.replaced) == 2 and float(other.weight.detach().abs().max()) <= 1 / 300**0.5)


def _kept(_: torch.Generator) -> float:
    ad = target.package()
    model = _model()
    state = copy.deepcopy(model.state_dict())
    ad.convert(model)
    return said(all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)))


def _odd(_: torch.Generator) -> float:
    ad = target.package()

    class Mine(nn.Linear):
        """A user's subclass."""

    replaced: Any = nn.Linear(4, 4)
    replaced.forward = lambda x: x
    layers = {
        "mine": Mine(4, 4),
        "replaced": replaced,
        "spectral": parametrizations.weight_norm(nn.Linear(4, 4)),
        "lazy": nn.LazyLinear(4),
        "complex": nn.Linear(4, 4, dtype=torch.complex64),
        "ours": ad.AffineLike(4, 4),
        "bare": nn.Linear(4, 4, bias=False),
        "whole": nn.Linear(4, 4),
    }
    model = nn.ModuleDict(layers)
    report = ad.convert(model)
    skipped = {s.name for s in report.skipped}
    back = ad.revert(model)
    only = [r.name for r in report.replaced] == ["whole"] == [r.name for r in back.replaced]
    return said(only and skipped == set(layers) - {"whole"} and type(model["ours"]).__name__ == "AffineLike")


def _single(generator: torch.Generator) -> float:
    ad = target.package()
    layer, x = nn.Linear(4, 3).double(), _normal(generator, 2, 4)
    wanted = ad.functional.affine_like(x, layer.weight, layer.bias)
    return error(ad.convert(layer).model(x), wanted)


def _copied(generator: torch.Generator) -> float:
    ad = target.package()
    model, x = _model(), _normal(generator, 2, 4)
    ad.convert(model)
    other = copy.deepcopy(model)
    plain = _model()
    plain.load_state_dict(model.state_dict())
    found = error(other(x), model(x))
    ad.revert(other)
    return max(found, error(other(x), plain(x)), said(type(model[0]).__name__ == "AffineLike"))


def _recorded(generator: torch.Generator) -> float:
    """A model restored from a record that went through JSON, with one setting changed."""
    ad = target.package()
    model, x = _model(), _normal(generator, 2, 4)
    ad.convert(model, without_bias="norm-like")
    model[3].kappa = 0.25
    other = _model()
    ad.restore(other, json.loads(json.dumps(ad.record(model))))
    other.load_state_dict(model.state_dict())
    u = model[:3](x)
    halved = 0.5 * ad.functional.affine_like(u, model[3].weight, model[3].bias)
    return max(error(other(x), model(x)), error(other[:4](x), halved), said(ad.record(other) == ad.record(model)))


def _changed(generator: torch.Generator) -> float:
    """A layer wrapped after its conversion is not reverted: its wrapper would call another forward."""
    ad = target.package()
    model, x = _model(), _normal(generator, 2, 4)
    ad.convert(model)
    first = model[0].forward
    model[0].forward = lambda x: 2 * first(x)
    parametrizations.weight_norm(model[3])
    before = model[0](x), model[3](x)
    report = ad.revert(model)
    kept = max(error(model[0](x), before[0]), error(model[3](x), before[1]))
    return max(kept, said(not report.replaced and {s.name for s in report.skipped} == {"0", "3"}))


class _Reader(nn.Module):
    """A module that reads layers' weights directly: one visibly in its source, another visible only in a call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.hidden, self.called, self.idle = (nn.Linear(4, 4).double() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Apply four layers to ``x``, two of them without calling their forward."""
        hidden = self.hidden
        z: Tensor = self.called(x @ self.seen.weight.t() @ hidden.weight.t())
        return z


def _around(generator: torch.Generator) -> float:
    ad = target.package()
    source = {r.name for r in ad.convert(_Reader(), dry_run=True).replaced}
    model = _Reader()
    report = ad.convert(model, example=_normal(generator, 2, 4))
    called = {r.name for r in report.replaced} == {"called", "idle"} and report.uncalled == ("idle",)
    return said(source == {"hidden", "called", "idle"} and called and type(model.hidden) is nn.Linear)


def cases() -> Iterator[tuple[str, Case]]:
    """Yield the cases for whole models."""
    ad = target.package()
    yield "ties and what is skipped", _ties
    yield "hooks, modes and frozen parameters", _hooks
    yield "an optimiser", _optimiser
    yield "a dry run", _trial
    yield "a filter", _chosen
    yield "values drawn anew", _drawn
    yield "values kept", _kept
    yield "what cannot be converted", _odd
    yield "a model that is a layer", _single
    yield "a copy, put back", _copied
    yield "a record, restored", _recorded
    yield "what was changed since", _changed
    yield "weights that are read by the code around, and layers that are not called", _around
    yield "no record", refusal(lambda: ad.restore(_model(), {"layers": []}), ValueError)
    yield "nothing to record", refusal(lambda: ad.record(_model()), ValueError)
    yield "no module", refusal(lambda: ad.convert("model"), TypeError)
    yield "no filter", refusal(lambda: ad.convert(_model(), "all"), TypeError)
    yield "an unknown word", refusal(lambda: ad.convert(_model(), without_bias="drop"), ValueError)
    yield "an unknown way to draw", refusal(lambda: ad.convert(_model(), init="zeros"), ValueError)
