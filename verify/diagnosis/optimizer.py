"""The user's own optimiser: its steps, and whether they are linear in the gradient, so that samples' effects add."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from derive.errors import UsageError
from verify.diagnosis.layers import gathered
from verify.diagnosis.snapshot import Snapshot

Optimizer = torch.optim.Optimizer | Callable[[Iterable[Tensor]], torch.optim.Optimizer] | None
_SAME = 1e-4  # relative departure from linearity that float32 rounding can cause


@dataclass
class Stepper:
    """Moves parameters by their gradients: clipping, the optimiser, the schedule.

    ``again`` runs the model forward and backward once more, for optimisers that take a closure.
    """

    optimizer: torch.optim.Optimizer
    before_step: Callable[[], Any] | None
    scheduler: Any
    again: Callable[[], Tensor]

    @property
    def rate(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0].get("lr", 0.0))

    @property
    def asks_for_closure(self) -> bool:
        """Whether the optimiser runs the model itself, as L-BFGS does."""
        parameter = inspect.signature(type(self.optimizer).step).parameters.get("closure")
        return parameter is not None and parameter.default is parameter.empty

    def clip(self) -> None:
        """Call the user's ``before_step``."""
        if self.before_step is not None:
            self.before_step()

    def step(self) -> None:
        """Take one step with the clipped gradients, and one of the schedule."""
        if self.asks_for_closure:
            self.optimizer.step(self._closure)  # type: ignore[arg-type]
        else:
            self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()

    def _closure(self) -> Tensor:
        with torch.enable_grad():
            loss = self.again()
        self.clip()
        return loss


def made_optimizer(optimizer: Optimizer, model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Return the optimiser to use: SGD at ``rate`` for None; raise UsageError for one of another model."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if optimizer is None:
        return torch.optim.SGD(trained, lr=rate)
    if not isinstance(optimizer, torch.optim.Optimizer):
        if not callable(optimizer):
            raise UsageError(f"the optimizer is a {type(optimizer).__name__}; give one of torch.optim, or a function")
        optimizer = optimizer(trained)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in trained):
        raise UsageError("the optimizer holds none of the model's trained parameters; make it from this model's")
    return optimizer


@dataclass(frozen=True)
class Linear:
    """A step linear in the gradient: ``theta' - theta = past - rate * gradient``, by parameter.

    ``past`` is empty if the optimiser has no memory (momentum, decay).
    """

    rate: Mapping[str, float]
    past: Mapping[str, Tensor]


def linear_part(stepper: Stepper, parameters: Mapping[str, Tensor], raw: Mapping[str, Tensor]) -> Linear | None:
    """Return the optimiser's next step as a linear function of the gradient, None if it is not linear.

    The optimiser is tried three times, with zero, one and two times the gradient, and restored each time.

    Args:
        stepper: the optimiser; clipped gradients are in place.
        parameters: the trained parameters by name.
        raw: their gradients before clipping.
    """
    if stepper.asks_for_closure:
        return None
    if stepper.before_step is None and (plain := plain_rates(stepper.optimizer, parameters)) is not None:
        return Linear(plain, {})
    gradients = {name: p.grad.detach().clone() for name, p in parameters.items() if p.grad is not None}
    none, once, twice = (_tried(stepper, parameters, gradients, size) for size in (0.0, 1.0, 2.0))
    rates = {}
    for name, gradient in gradients.items():
        g = gathered(raw.get(name, gradient))
        g = (g.to_dense() if g.is_sparse else g).double()
        moved, doubled = once[name] - none[name], twice[name] - none[name]
        length, size = float(g.square().sum()), float(moved.norm())
        rates[name] = -float((moved * g).sum()) / length if length > 0 else 0.0
        departure = max(float((doubled - 2 * moved).norm()), float((moved + rates[name] * g).norm()))
        if departure > _SAME * size + _rounding(parameters[name]):
            return None
    return Linear(rates, none)


def plain_rates(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], watching: int = 0
) -> dict[str, float] | None:
    """Return each parameter's rate if the optimiser is plain gradient descent, else None.

    ``watching`` is the number of post-step hooks that only observe.
    """
    groups = optimizer.param_groups
    extra = ("momentum", "weight_decay", "maximize", "fused")
    hooked = optimizer._optimizer_step_pre_hooks or len(optimizer._optimizer_step_post_hooks) > watching
    if type(optimizer) is not torch.optim.SGD or hooked or any(bool(g.get(word)) for g in groups for word in extra):
        return None
    rates = {id(p): float(group["lr"]) for group in groups for p in group["params"]}
    return {name: rates.get(id(p), 0.0) for name, p in parameters.items()}


def _rounding(parameter: Tensor) -> float:
    """Return the change of the parameters that rounding alone can cause."""
    return 4 * torch.finfo(parameter.dtype).eps * float(gathered(parameter.detach()).double().norm())


def _tried(
    stepper: Stepper, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], size: float
) -> dict[str, Tensor]:
    """Return the optimiser's change of the parameters for a multiple of their gradients, and restore everything."""
    state = Snapshot(stepper.optimizer)
    before = {name: gathered(p.detach()).to(torch.float64, copy=True) for name, p in parameters.items()}
    try:
        for name, gradient in gradients.items():
            parameters[name].grad = gradient * size
        stepper.optimizer.step()
        return {name: gathered(p.detach()).double() - before[name] for name, p in parameters.items()}
    finally:
        state.restore()
