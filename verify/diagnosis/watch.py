"""Measure the self factors of a model's layers, and the effect of its steps, during training.

    with verify.watch(model, every=100, optimizer=optimizer) as watched:
        for x, y in batches: ...              any training loop
    watched.readings[-1].layers["0"].ratio    self factors
    watched.readings[-1].parts["0"].own       the effect of the optimiser's step, if the optimiser is given

A step is a forward pass of the model in training mode with gradients. If the training loop calls the layers without the
model (a ``training_step``), a step is everything up to the backward pass. Between measured steps, each layer costs one
call of a short function; a measured step costs the self factors, and with an optimiser one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from derive.errors import UsageError
from verify.diagnosis.batch import check_model
from verify.diagnosis.capture import Captured, capturing, nothing
from verify.diagnosis.layers import Plan, Unjudged, plan_of_factors
from verify.diagnosis.loggers import Logger, tensorboard_logger
from verify.diagnosis.record import Parts, Spread
from verify.diagnosis.records import BY_FUNCTION, spread_of
from verify.diagnosis.watched_step import WatchedStep

UNREAD = "it was not called in a measured step"
NO_STEP = "no step was measured: the model ran neither in training mode with gradients nor up to a backward pass"


@dataclass(frozen=True)
class Reading:
    """The self factors of every layer at one step, by name, and the effect of the step if an optimiser is watched.

    ``parts`` holds the reason instead of numbers for a layer without any.
    """

    step: int
    layers: dict[str, Spread]
    parts: dict[str, Parts | str] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """Return every number, keyed by a name for loggers."""
        found = {}
        for name, s in self.layers.items():
            shown = name or "root"
            found.update({f"self factor/{shown}/{word}": getattr(s, word) for word in ("minimum", "median", "maximum")})
        for name, parts in self.parts.items():
            if isinstance(parts, Parts):
                numbers = {word: value for word, value in vars(parts).items() if isinstance(value, float)}
                found.update({f"step/{name or 'root'}/{word}": value for word, value in numbers.items()})
        return found


class Watch:
    """Hooks on a model that measure self factors; as a context manager it removes them at the end.

    Args:
        model: the module that is trained.
        every: measure the first step and then every so many steps.
        report: called with each reading.
        tensorboard: a folder for TensorBoard scalars.
        optimizer: the optimiser that trains the model; readings then include the effect of its step.
        loggers: receive the numbers of each reading, such as ``verify.wandb_logger()``.

    Attributes:
        readings: the measurements, in order.
        unjudged: layers without a reading, with the reason.

    Raises:
        UsageError: ``model`` is no module or has no parameters, ``every`` is below 1, or TensorBoard is requested but
        not
            installed.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 100,
        report: Callable[[Reading], None] | None = None,
        tensorboard: Path | str | None = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        loggers: Iterable[Logger] = (),
    ) -> None:
        check_model(model)
        if every < 1:
            raise UsageError(f"every is {every}; give 1 or more steps")
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        self.every, self.report, self.optimizer = every, report, optimizer
        self.readings: list[Reading] = []
        self.loggers = [*loggers, *([] if tensorboard is None else [tensorboard_logger(tensorboard)])]
        self._handles: list[Any] = []
        self._plan: Plan = plan_of_factors(self.model)
        self._refused: dict[str, Unjudged] = {}
        self._stack, self._captured, self._step = ExitStack(), None, WatchedStep(self.model, self._plan)
        self._steps, self._inside, self._open, self._opened_by_root = 0, 0, False, False

    _captured: Captured | None

    @property
    def unjudged(self) -> tuple[Unjudged, ...]:
        """Every module with parameters that has no reading, with the reason."""
        read = {name for reading in self.readings for name in reading.layers}
        listed = [*self._plan.unjudged, *self._refused.values()]
        known = read | {entry.name for entry in listed}
        rest = [(site.name, site.type, module) for module, site in self._plan.sites.items() if site.name not in known]
        for module, attention in self._plan.attention.items():
            if not any(name.startswith(f"{attention.name}." if attention.name else "") for name in known):
                rest.append((attention.name, type(module).__name__, module))
        return (*listed, *(Unjudged(name, kind, self._reason(module)) for name, kind, module in rest))

    def _reason(self, module: nn.Module) -> str:
        used = [word for word, p in module.named_parameters() if p.grad is not None]
        if not self.readings:
            return NO_STEP
        return BY_FUNCTION.format(names=" and ".join(used)) if used else UNREAD

    @property
    def drift(self) -> dict[str, float]:
        """The median self factor at the last reading over the first, by layer."""
        if not self.readings:
            return {}
        first, last = self.readings[0].layers, self.readings[-1].layers
        return {name: last[name].median / s.median for name, s in first.items() if name in last and s.median > 0}

    def __enter__(self) -> Self:
        """Install the hooks."""
        self._plan = plan_of_factors(self.model)
        self._step = WatchedStep(self.model, self._plan)
        self._handles = [
            self.model.register_forward_pre_hook(self._enter_root, with_kwargs=True),
            self.model.register_forward_hook(self._leave_root, always_call=True),
        ]
        inner = [m for m in (*self._plan.sites, *self._plan.attention) if m is not self.model]
        self._handles += [module.register_forward_pre_hook(self._enter_layer) for module in inner]
        self._handles += [module.register_forward_hook(self._leave_layer) for module in inner[:1]]
        if self.optimizer is not None:
            self._handles.append(self.optimizer.register_step_post_hook(self._after_step))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hooks."""
        if kind is None:
            self._close()
        self._stack.close()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for logger in self.loggers:
            logger.close()

    def _begin(self, by_root: bool) -> None:
        """Count a step, and record it if it is to be measured."""
        self._close()
        if not (self.model.training and torch.is_grad_enabled()):
            return
        self._open, self._opened_by_root = True, by_root
        if self._steps % self.every == 0:
            self._captured = self._stack.enter_context(
                capturing(self._plan, nothing if self.optimizer is None else None)
            )
            self._captured.listening = not by_root
            if self.optimizer is not None:
                self._step.before()
        self._steps += 1

    def _enter_root(self, _: nn.Module, arguments: Any, words: Any) -> None:
        if _in_backward():
            return
        if self._inside == 0:
            self._begin(by_root=True)
            if self._captured is not None and self.optimizer is not None:
                self._step.begin(arguments, words)
        self._inside += 1

    def _leave_root(self, _: nn.Module, __: Any, output: Any) -> None:
        if _in_backward() or self._inside == 0:
            return
        self._inside -= 1
        if self._inside == 0 and self._captured is not None:
            if output is None:  # no output: the pass raised an exception
                self._drop()
            elif self.optimizer is None:
                self._close()
            else:
                self._captured.backward = True

    def _enter_layer(self, *_: Any) -> None:
        if self._inside == 0 and not self._open and not _in_backward():
            self._begin(by_root=False)

    def _leave_layer(self, _: nn.Module, __: Any, output: Any) -> None:
        """If the model itself is not called, the backward pass through its first layer ends the step."""
        if self._inside == 0 and self._open and not self._opened_by_root and not _in_backward():
            met = output[0] if isinstance(output, tuple) else output
            if isinstance(met, Tensor) and met.requires_grad:
                met.register_hook(self._backward_came)

    def _backward_came(self, _: Tensor) -> None:
        if self.optimizer is None or self._captured is None:
            self._close()

    def _drop(self) -> None:
        self._stack.close()
        self._captured, self._open = None, False

    def _close(self, parts: dict[str, Parts | str] | None = None) -> None:
        """End the current step, and report it if it was measured."""
        captured, self._captured, self._open = self._captured, None, False
        self._stack.close()
        if captured is None:
            return
        self._refused.update({name: entry for name, entry in captured.refused.items() if name not in self._refused})
        layers = {name: spread_of(calls) for name, calls in captured.calls.items()}
        reading = Reading(self._steps - 1, layers, parts or {})
        self.readings.append(reading)
        for logger in self.loggers:
            logger.log(reading.scalars(), reading.step)
        if self.report is not None:
            self.report(reading)

    def _after_step(self, *_: Any) -> None:
        if self._captured is not None and self.optimizer is not None:
            self._stack.close()
            captured, self._captured = self._captured, None  # so that the extra forward pass is not counted as a step
            hooks, self._inside = self._inside, 1
            try:
                parts = self._step.after(captured, self.optimizer)
            finally:
                self._captured, self._inside = captured, hooks
            self._close(parts)
        self._open = False


def _in_backward() -> bool:
    """Whether a backward pass is running in this thread, as when checkpointing reruns layers."""
    return torch._C._current_graph_task_id() != -1


watch = Watch  # the public name: ``verify.watch(model)``
