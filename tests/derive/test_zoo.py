"""Layers of every kind: the derived kernel and the kernel of independent evaluation, against PyTorch in float64."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
import torch

import derive
from derive.algebra.index import Index
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import REAL
from derive.evaluation.points import Point
from derive.evaluation.reference import Reference
from derive.forward_map import Layer
from derive.record import Status
from derive.spec import loads_spec
from tests.derive.papers import PAPERS
from tests.derive.papers_more import MORE
from tests.derive.references import Trial
from tests.derive.zoo import ZOO
from tests.derive.zoo_networks import NETWORKS
from tests.marks import one_in

BATCH, PAIRS = 2, 14
LAYERS = {**ZOO, **NETWORKS, **PAPERS, **MORE}
CHECKED = {*ZOO, *NETWORKS, *PAPERS, "short_convolutions", "token_mix", "rotary"}
LARGE = {"grouped_queries", "pooled", "groups", "mixture_density", "short_convolutions", "rotary"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in LAYERS]
rows = pytest.mark.parametrize("name", NAMES)


def trial(name: str) -> Trial:
    made = LAYERS[name]
    layer = loads_spec(made.text(f"{name}_layer"))  # some bare names are names of functions
    found = Trial(layer, lambda v, sizes: made.torch(v), {**made.numbers, "B": BATCH}, scalars=made.settings)
    found.tensors.update({n: torch.tensor(v, dtype=torch.float64) for n, v in made.settings.items()})
    return found


def point(found: Trial, layer: Layer) -> Point:
    """A point of independent evaluation with the entries of the trial and the intermediates of a layer."""
    sizes = {s: found.sizes[s.name] for s in layer.sizes}
    here = Given(0, sizes, REAL, {d.base: d for d in layer.definitions})
    here.tensors = found.tensors
    return here


class Given(Point):
    """A point whose entries are given, not drawn."""

    tensors: dict[str, torch.Tensor]

    def draw(self, name: str, place: tuple[int, ...], positive: bool = False) -> Decimal:
        return Decimal(float(self.tensors[name][place]))

    def bits(self, name: str, place: tuple[int, ...]) -> int:
        return int(self.tensors[name][place])


@pytest.mark.parametrize("name", one_in(2, NAMES))
def test_the_kernel_is_that_of_automatic_differentiation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trial(name)
    monkeypatch.setattr(Given, "tensors", made.tensors, raising=False)
    kernel, derivation = made.kernel(), derive.effective_update(made.layer)
    indices: tuple[Index, ...] = made.layer.output.indices
    with REAL.context():
        plain, named = point(made, made.layer), point(made, derivation.layer)  # the second may also have named slopes
        reference = Reference.at(made.layer, plain)
        assert tuple(made.output().shape) == tuple(made.world_size(i.size) for i in indices)
        pairs = [(a, b) for a in reference.places for b in reference.places]
        for here, there in random.Random(0).sample(pairs, min(PAIRS, len(pairs))):
            at = dict(zip((*indices, *(i.primed() for i in indices)), here + there, strict=True))
            expected = pytest.approx(float(kernel[here + there]), rel=1e-9, abs=1e-9)
            assert float(reference.value(here)) == pytest.approx(float(made.output()[here]), rel=1e-9, abs=1e-9)
            assert float(reference.kernel(here, there)) == expected
            assert float(evaluate(derivation.kernel, at, named)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CHECKED))
def test_every_layer_passes_its_check(name: str) -> None:
    layer = trial(name).layer
    derivation = derive.effective_update(layer).check()
    found = {part.id: part.verdict for part in (*derivation.steps, *derivation.claims)}
    undecided = {"rotary_layer/result-shape"}  # no rule of the normal form shows that two rotated units never interact
    assert {v.status for i, v in found.items() if i not in undecided} <= {Status.PROVED, Status.SAMPLED}, found
