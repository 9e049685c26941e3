"""Two sides of a comparison at one instance: the generated module and the formula, as functions of named tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from verify.checks.cases import Case, Subject

Named = Mapping[str, Tensor]
Side = Callable[[Named], Tensor]
_LEAST_SHARE = 1e-3  # what is far smaller than the other results of its instance has cancelled to rounding


def sides(subject: Subject, case: Case) -> tuple[Side, Side]:
    """Return the module and the formula, each a function of every input and parameter by name."""
    reference = subject.reference
    assert reference is not None

    def by_module(values: Named) -> Tensor:
        parameters = {f"inner.{place.attribute}": values[name] for name, place in case.places.items()}
        inputs = tuple(values[name] for name in case.inputs)
        z = torch.func.functional_call(case.module, parameters, inputs)
        assert isinstance(z, Tensor)
        return z

    return by_module, lambda values: reference(values, case)


def values_of(case: Case) -> dict[str, Tensor]:
    """Return every input and parameter of an instance by name, detached."""
    return {name: t.detach().clone() for name, t in {**case.inputs, **case.parameters()}.items()}


def real(values: Named) -> list[str]:
    """Return the names of the tensors that have a gradient."""
    return [name for name, t in values.items() if t.is_floating_point()]


def gradients(side: Side, values: Named, g: Tensor, wanted: Sequence[str], *, recorded: bool = False) -> list[Tensor]:
    """Return the output, then the gradients of ``sum(g z)`` with respect to the wanted tensors alone."""
    leaves = {name: t.detach().requires_grad_(name in wanted) for name, t in values.items()}
    z = side(leaves)
    if not wanted:
        return [z]
    return [z, *torch.autograd.grad(z, [leaves[n] for n in wanted], g, create_graph=recorded)]


def distance(found: Iterable[Tensor], wanted: Iterable[Tensor]) -> float:
    """Return the largest difference of two lists of results, each relative to the largest entry of its result.

    Infinite where shapes differ or an entry is not finite; a result that is nothing beside the others is held against
    a thousandth of the largest.
    """
    found, wanted = list(found), list(wanted)
    if [t.shape for t in found] != [t.shape for t in wanted]:
        return float("inf")
    largest = [float(t.detach().abs().max()) if t.numel() else 0.0 for t in wanted]
    floor = _LEAST_SHARE * max(largest, default=0.0)
    worst = 0.0
    for a, b, size in zip(found, wanted, largest, strict=True):
        if not a.numel():
            continue
        difference = float((a.detach().double() - b.detach().double()).abs().max())
        scale = max(size, floor)
        if difference != difference or difference == float("inf"):
            return float("inf")
        worst = max(worst, difference / scale if scale else difference and float("inf"))
    return worst
