"""Measure the effect of a training step on each layer's activation, by one more forward pass without side effects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from verify.diagnosis.capture import Captured, Keep, capturing
from verify.diagnosis.layers import Plan
from verify.diagnosis.observe import copies
from verify.diagnosis.optimizer import Linear, plain_rates
from verify.diagnosis.parts import Moved, own_parts, parts
from verify.diagnosis.probes import entries_of, probes_of
from verify.diagnosis.record import Parts
from verify.diagnosis.sums import squares_of
from verify.diagnosis.untouched import Randomness, untouched


class WatchedStep:
    """One measured step of a training loop, from the model's call until after the optimiser's step."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self._model, self._plan = model, plan
        self._call: tuple[Any, Any] | None = None
        self._randomness: Randomness | None = None
        self._before: dict[str, Tensor] = {}

    def begin(self, arguments: Any, words: Any) -> None:
        """Keep the model's arguments, to call it again after the step."""
        self._call, self._randomness = (arguments, words), Randomness()

    def before(self) -> None:
        """Keep the parameters before the step."""
        parameters = dict(self._model.named_parameters())
        self._before = {**{name: p.detach() for name, p in parameters.items()}, **copies(parameters)}

    def after(self, captured: Captured, optimizer: torch.optim.Optimizer) -> dict[str, Parts | str]:
        """Return the effect of the step on each layer with a gradient; upstream only if the model itself was called."""
        chosen = {
            name: probes_of(calls)
            for name, calls in captured.calls.items()
            if not calls[0].site.closed and all(call.gradient is not None for call in calls)
        }
        later = self._again(entries_of(chosen))
        named = dict(self._model.named_parameters())
        parameters = {name: p.detach() for name, p in named.items()}
        gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
        rates = plain_rates(optimizer, named, watching=1)
        linear = None if rates is None else Linear(rates, {})
        moved = Moved(self._before, parameters, gradients, linear, squares_of(gradients))
        found: dict[str, Parts | str] = {}
        with torch.no_grad():
            for name, probes in chosen.items():
                there = later.calls.get(name, []) if later is not None else None
                found[name] = own_parts(probes, moved) if there is None else parts(probes, there, moved)
        self._call, self._before = None, {}
        return found

    def _again(self, kept: Keep) -> Captured | None:
        """Repeat the model's call with the same random numbers; None if the model itself was not called."""
        if self._call is None or self._randomness is None:
            return None
        arguments, words = self._call
        but = [*self._model.parameters(), self]  # reachable through the watch's own hooks on the model
        with untouched(self._model, arguments, words, but=but), torch.no_grad():
            self._randomness.restore()
            with capturing(self._plan, kept) as again:
                self._model(*arguments, **words)
        return again
