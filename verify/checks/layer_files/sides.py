"""The two sides of a comparison: the generated module and the formula, as functions of named tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from verify.checks.cases import Case, Subject
from verify.checks.comparison import Named, Side


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
    """Return the names of the floating-point tensors, which can have gradients."""
    return [name for name, t in values.items() if t.is_floating_point()]
