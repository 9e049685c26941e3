"""One pass of a model, as a training loop runs it: loss, layers' calls, gradients, what happens between the layers."""

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
    """One pass; ``gradients`` by parameter are empty where no backward pass was asked for."""

    loss: Tensor
    captured: Captured
    gradients: dict[str, Tensor]
    activity: Activity

    @cached_property
    def squares(self) -> dict[str, float]:
        """The squared norm of each gradient by parameter, without those that are sparse or spread over processes."""
        return squares_of(self.gradients)

    @cached_property
    def finite(self) -> bool:
        """Whether the loss and every gradient are finite."""
        doubtful = [g for name, g in self.gradients.items() if not math.isfinite(self.squares.get(name, math.nan))]
        return not is_bad(self.loss) and not any(is_bad(dense(g)) for g in doubtful)


def dense(tensor: Tensor) -> Tensor:
    """Return the numbers of a gradient that may be sparse or spread over processes, on this process."""
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
    """Run the model once; with ``backward`` the gradients stand in ``.grad`` after it.

    What of the layers' inputs stays is said by ``kept``; by default they and the gradients at the outputs do.
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
    """Turn a failure of the backward pass into a UsageError."""
    try:
        yield
    except RuntimeError as problem:
        lines = str(problem).strip().splitlines()
        raise UsageError(f"the backward pass of the loss fails: {lines[0] if lines else 'no message'}") from problem


def copies(parameters: Mapping[str, Tensor], but: Container[str] = ()) -> dict[str, Tensor]:
    """Return copies of the trained parameters by name, without those named in ``but``."""
    return {name: copied(p) for name, p in parameters.items() if p.requires_grad and name not in but}
