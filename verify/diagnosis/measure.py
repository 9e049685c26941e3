"""Diagnose a model: self factors, shares and the exact check at the first step, self factors again after each step.

arrange        model, batch, loss -> what is called with what
plan           model -> layers that can be judged, and the others
observe        parameters -> loss, calls of the layers, gradients
shares         calls, gradients -> what the step is made of, and whether it is the derived one
descend        parameters -> parameters after one step of SGD, on copies
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from derive.errors import UsageError
from verify.diagnosis.advice import advise
from verify.diagnosis.batch import Loss, Work, arrange, run
from verify.diagnosis.capture import CLOSED, NO_GRAPH, Call, Captured, capturing
from verify.diagnosis.layers import Plan, Unjudged, plan
from verify.diagnosis.preserve import preserved, same_randomness
from verify.diagnosis.record import Diagnosis, LayerDiagnosis, Shares, Spread, spread
from verify.diagnosis.samples import Shape
from verify.diagnosis.step import shares

UNUSED = "its output does not reach the loss"
UNCALLED = "it is not called when the model runs on this batch"
EMPTY = "it is called without a single sample"


def diagnose(
    model: nn.Module, batch: Any, loss: Loss | None = None, *, steps: int = 1, rate: float = 0.01
) -> Diagnosis:
    """Return how far each layer of a model is from moving every sample by the same factor.

    The model is run in the mode that it is in, on copies of its parameters and buffers; it, its gradients, hooks and
    all random states are afterwards what they were before.

    Args:
        model: any ``torch.nn.Module``; of a compiled one, the module that was compiled.
        batch: a tensor, a tuple of arguments, a mapping of keyword arguments, or a pair ``(inputs, target)``.
        loss: a function of the model's output, or of output and target, that returns one number; None where the output
            is the loss or has one as ``.loss``. Targets: the second of a pair, otherwise the batch itself. A loss whose
            first argument is named ``model`` gets the model, to call it as often as it likes, and the batch.
        steps: how many virtual steps of SGD to take on the batch, after each of which self factors are measured again.
        rate: the learning rate of these steps.

    Raises:
        UsageError: a model without trained parameters, a batch with NaN or on another device, a loss that is not one
            finite number, code of the user's that raises.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    work = arrange(model, batch, loss)
    if steps < 0 or not rate > 0:
        raise UsageError(f"steps is {steps} and rate {rate}; give no fewer than 0 steps and a rate above 0")
    with torch.inference_mode(False), torch.enable_grad(), preserved(model), same_randomness(model):
        return _diagnose(model, work, steps, rate)


@dataclass
class _Observed:
    """One forward and backward pass at some parameters."""

    loss: float
    captured: Captured
    outputs: dict[str, list[Tensor | None]]
    gradients: dict[str, Tensor]


class _State:
    """Copies of a model's parameters and buffers, on which steps are taken."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.values = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in model.named_parameters()}
        self.buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}

    def call(self, *arguments: Any, **words: Any) -> Any:
        """Return the model's output at these parameters."""
        return functional_call(self.model, {**self.buffers, **self.values}, arguments, words)

    def descend(self, gradients: dict[str, Tensor], rate: float) -> None:
        """Take one step of SGD."""
        with torch.no_grad():
            for name, gradient in gradients.items():
                self.values[name].sub_(rate * gradient)


def _diagnose(model: nn.Module, work: Work, steps: int, rate: float) -> Diagnosis:
    state, found = _State(model), plan(model)
    first = _observe(state, found, work)
    judged = {name: _shares(name, first, state.values) for name in first.captured.calls}
    history = {name: [_spread(calls)] for name, calls in first.captured.calls.items()}
    losses, seen, stopped = [first.loss], first, ""
    for _ in range(steps):
        state.descend(seen.gradients, rate)
        try:
            seen = _observe(state, found, work)
        except UsageError as problem:
            stopped = str(problem)
            break
        losses.append(seen.loss)
        for name, calls in seen.captured.calls.items():
            history.setdefault(name, []).append(_spread(calls))
    layers = tuple(_layer(calls, tuple(history[name]), judged[name]) for name, calls in first.captured.calls.items())
    return Diagnosis(
        model=type(model).__name__,
        layers=advise(layers, model),
        unjudged=_unjudged(found, first.captured),
        losses=tuple(losses),
        rate=rate,
        training=model.training,
        stopped=stopped,
    )


def _observe(state: _State, found: Plan, work: Work) -> _Observed:
    """Run the model forward and backward once."""
    with capturing(found, state.values) as captured:
        loss = run(work, state.call)
    met = [(name, k, call.edge) for name, calls in captured.calls.items() for k, call in enumerate(calls) if call.edge]
    trained = {name: value for name, value in state.values.items() if value.requires_grad}
    try:
        wanted: list[Any] = [*(edge for _, _, edge in met), *trained.values()]
        results = torch.autograd.grad(loss, wanted, allow_unused=True)
    except RuntimeError as problem:
        reason = str(problem).strip().splitlines()[0]
        raise UsageError(f"the backward pass of the loss fails: {reason}") from problem
    outputs: dict[str, list[Tensor | None]] = {name: [None] * len(calls) for name, calls in captured.calls.items()}
    for (name, k, _), gradient in zip(met, results, strict=False):
        outputs[name][k] = None if gradient is None else gradient.detach()
    own = zip(trained, results[len(met) :], strict=True)
    gradients = {name: gradient.detach() for name, gradient in own if gradient is not None}
    return _Observed(float(loss.detach()), captured, outputs, gradients)


def _spread(calls: Sequence[Call]) -> Spread:
    return spread(torch.cat([call.factors.reshape(-1) for call in calls]))


def _shares(name: str, seen: _Observed, values: dict[str, Tensor]) -> Shares | str:
    """Return the shares of a site's step, or why there are none."""
    calls, gradients = seen.captured.calls[name], seen.outputs[name]
    if calls[0].site.closed:
        return CLOSED
    if any(call.edge is None for call in calls):
        return NO_GRAPH
    used = [(call, g) for call, g in zip(calls, gradients, strict=True) if g is not None]
    if not used:
        return UNUSED
    site = calls[0].site
    step = {p.parameter: seen.gradients[p.parameter] for w, p in site.pieces.items() if w in site.trained}
    with torch.no_grad():
        return shares([call for call, _ in used], [g for _, g in used], values, step)


def _layer(calls: Sequence[Call], history: tuple[Spread, ...], judged: Shares | str) -> LayerDiagnosis:
    site, x = calls[0].site, calls[0].x
    tokens = site.shape is Shape.TOKENS or x.dim() > 2 or "MultiheadAttention" in site.type
    tokens = tokens and site.shape is not Shape.BAGS
    sample = "position" if site.shape is Shape.PATCHES else "token" if tokens else "sample"
    notes = []
    if len(calls) > 1:
        notes.append(f"called {len(calls)} times: the samples of all calls count together")
    if getattr(site.view, "padding_idx", None) is not None:
        notes.append("the row of its padding token is not trained: there the self factor is 0")
    if site.shared_with:
        notes.append(f"shares parameters with {', '.join(site.shared_with)}")
    elif isinstance(judged, Shares) and judged.elsewhere > 0:
        notes.append("its parameters take part outside its own calls too")
    if set(site.trained) != set(site.pieces) and not site.closed:
        notes.append(f"only its {site.trained[0]} is trained")
    return LayerDiagnosis(
        name=site.name,
        type=site.type,
        sample=sample,
        calls=len(calls),
        law=f"{site.law.layer}>{site.law.map}" if site.law.map else site.law.layer,
        history=history,
        shares=judged if isinstance(judged, Shares) else None,
        missing=judged if isinstance(judged, str) else "",
        note="; ".join(notes),
    )


def _unjudged(found: Plan, captured: Captured) -> tuple[Unjudged, ...]:
    """Return every layer that was not judged: unknown, refused when called, or never called."""
    never = [
        Unjudged(site.name, site.type, EMPTY if site.name in captured.empty else UNCALLED)
        for site in found.sites.values()
        if site.name not in captured.calls and site.name not in captured.refused
    ]
    parts = [*captured.calls, *captured.refused]
    idle = [
        Unjudged(name, type(module).__name__, UNCALLED)
        for module, name in found.attention.items()
        if not any(part.startswith(f"{name}." if name else "") for part in parts)
    ]
    return (*found.unjudged, *captured.refused.values(), *never, *idle)
