"""Compare the derived kernel of a captured module with ``torch.func.jacrev`` of the module itself, at other sizes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import derive
from codegen.capture.driver import Captured
from codegen.capture.exporting import export
from codegen.capture.factory import as_factory, in_double
from codegen.capture.proof import moved_module, places_of, point_at, tensors_at
from codegen.capture.sampling import Sample
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import REAL
from derive.forward_map import BATCH

PAIRS = 12


def jacobian(sample: Sample, state: Mapping[str, Tensor]) -> Tensor:
    """Return ``dz/dtheta`` for all trainable parameters by ``jacrev``, the output's axes first."""
    made = sample.program.made
    learning = {n: state[n].detach() for n, p in made.module.named_parameters() if p.requires_grad}
    aliases = {n for n, _ in made.module.named_parameters(remove_duplicate=False)}
    aliases -= {n for n, _ in made.module.named_parameters()}
    kept = {n: v.detach() for n, v in state.items() if n not in learning and n not in aliases}

    def output(parameters: Mapping[str, Tensor]) -> Tensor:
        found = torch.func.functional_call(made.module, ({**parameters, **kept},), made.positional, dict(made.named))
        return found if isinstance(found, Tensor) else found[0]

    with in_double():
        shape = output(learning).shape
        rows = torch.func.jacrev(output)(learning)
    return torch.cat([rows[n].reshape(*shape, -1) for n in learning], -1)


def largest_difference(found: Captured, factory: Any, sizes: Mapping[str, int], batch: int = 2) -> float:
    """The largest difference between derived kernel and ``J J^T`` at pairs of places, relative to the largest entry."""
    made = as_factory(factory)({k: v for k, v in sizes.items()})
    names = {s.name: s for s in found.layer.sizes}
    numbers = {BATCH.size: 1, **{names[k]: v for k, v in sizes.items() if k in names}}
    if "B" in found.samples[0].sizes and "B" in names:
        made, numbers[names["B"]] = made.with_batch(batch), batch
    assert all(dict(sizes) != {k: v for k, v in s.sizes.items() if k != "B"} for s in found.samples)
    sample = Sample({**sizes, "B": batch}, export(made))
    moved = moved_module(sample)
    there = Sample(sample.sizes, type(sample.program)(*_with(sample, moved)))
    jacobians = jacobian(there, moved.state)
    derivation = derive.effective_update(found.layer)
    places = places_of(found, moved.output, numbers)
    pairs = [(a, b) for a in places for b in places]
    chosen = random.Random(0).sample(pairs, min(PAIRS, len(pairs)))
    chosen += [(a, a) for a in random.Random(1).sample(places, min(3, len(places)))]
    indices = found.layer.output.indices
    point = point_at(derivation.layer, numbers, tensors_at(found, sample, moved))
    worst = scale = 0.0
    with REAL.context():
        for (here, own), (other, theirs) in chosen:
            at = dict(zip((*indices, *(i.primed() for i in indices)), here + other, strict=True))
            expected = float(jacobians[own] @ jacobians[theirs])
            worst = max(worst, abs(float(evaluate(derivation.kernel, at, point)) - expected))
            scale = max(scale, abs(expected))
    return worst / max(scale, 1e-12)


def _with(sample: Sample, moved: Any) -> tuple[Any, ...]:
    """Return the program of a sample with the moved examples."""
    program, inputs = sample.program, iter(moved.inputs)
    made = program.made.changed(lambda _: next(i for i in inputs if isinstance(i, Tensor)).detach())
    return program.given, program.nodes, program.output, program.outputs, made
