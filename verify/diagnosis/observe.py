"""Observe one training pass of a model: loss, calls of layers, gradients, activity between the layers."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from derive.errors import UsageError
from verify.diagnosis.activity import Activity, watched_activity
from verify.diagnosis.batch import Work, run
from verify.diagnosis.capture import Captured, Keep, capturing
from verify.diagnosis.copied import copied
from verify.diagnosis.layers import Plan
from verify.diagnosis.non_finite import is_bad
from verify.diagnosis.sums import squares_of


@dataclass
class Observed:
    """One pass; ``gradients``, by parameter, are empty without a backward pass."""

    loss: Tensor
    captured: Captured
    gradients: dict[str, Tensor]
    activity: Activity

    @cached_property
    def squares(self) -> dict[str, float]:
        """The squared norm of each gradient by parameter, without sparse and sharded ones."""
        return squares_of(self.gradients)

    @cached_property
    def finite(self) -> bool:
        """Whether the loss and every gradient are finite."""
        doubtful = [g for name, g in self.gradients.items() if not math.isfinite(self.squares.get(name, math.nan))]
        return not is_bad(self.loss) and not any(is_bad(dense(g)) for g in doubtful)


def dense(tensor: Tensor) -> Tensor:
    """Return a possibly sparse or sharded gradient as a plain dense tensor on this process."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local._values() if local.is_sparse else local


def observe(
    model: nn.Module,
    found: Plan,
    work: Work,
    *,
    backward: bool = True,
    activity: bool = False,
    kept: Keep | None = None,
) -> Observed:
    """Run the model once; with ``backward`` its gradients are in ``.grad`` afterwards.

    ``kept`` selects the entries of layers' inputs to keep; by default all of them and the gradients at outputs are
    kept.
    """
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.grad = None
    with capturing(found, kept) as captured:
        with ExitStack() as stack:
            between = stack.enter_context(watched_activity(model)) if activity else Activity()
            loss = run(work, model)
        if backward:
            captured.backward = True
            with backward_errors():
                loss.backward()
    gradients = {name: p.grad.detach() for name, p in parameters.items() if p.grad is not None}
    return Observed(loss.detach(), captured, gradients, between)


@contextmanager
def backward_errors() -> Iterator[None]:
    """Convert an exception of the backward pass into a UsageError."""
    try:
        yield
    except RuntimeError as problem:
        lines = str(problem).strip().splitlines()
        raise UsageError(f"the backward pass of the loss fails: {lines[0] if lines else 'no message'}") from problem


def copies(parameters: Mapping[str, Tensor], but: Container[str] = ()) -> dict[str, Tensor]:
    """Return copies of the trained parameters by name, without those named in ``but``."""
    return {name: copied(p) for name, p in parameters.items() if p.requires_grad and name not in but}
