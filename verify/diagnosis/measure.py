"""Diagnose a model: self factors, shares and the exact check at the first step, self factors again after each step.

arrange        model, batch, loss -> what is called with what
plan           model -> layers that can be judged, and the others
observe        parameters -> loss, calls of the layers, gradients
shares         calls, gradients -> what the step is made of, and whether it is the derived one
step           gradients -> parameters after one step of SGD; afterwards everything is put back
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from derive.errors import UsageError
from verify.diagnosis.advice import advise
from verify.diagnosis.batch import Loss, Work, arrange, run
from verify.diagnosis.capture import CLOSED, NO_GRAPH, Call, Captured, capturing
from verify.diagnosis.layers import Plan, Unjudged, plan
from verify.diagnosis.record import Diagnosis, LayerDiagnosis, Shares, Spread, spread
from verify.diagnosis.samples import Shape
from verify.diagnosis.step import shares
from verify.diagnosis.untouched import untouched

UNUSED = "its output does not reach the loss"
UNCALLED = "it is not called when the model runs on this batch"
CLEARED = "its gradient was cleared during the backward pass, by an optimiser that steps there"
EMPTY = "it is called without a single sample"


def diagnose(
    model: nn.Module, batch: Any, loss: Loss | None = None, *, steps: int = 1, rate: float = 0.01
) -> Diagnosis:
    """Return how far each layer of a model is from moving every sample by the same factor.

    The model is run in the mode that it is in, and takes real steps; it, what it holds, its gradients, hooks and all
    random states are afterwards, bit for bit, what they were before, whatever happens inside. Compiled models run
    without their compiled graphs.

    Args:
        model: any ``torch.nn.Module``, also compiled, wrapped by DDP or sharded by FSDP2.
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
    work = arrange(model, batch, loss)
    if steps < 0 or not rate > 0:
        raise UsageError(f"steps is {steps} and rate {rate}; give no fewer than 0 steps and a rate above 0")
    eagerly = torch.compiler.set_stance("force_eager")  # hooks do not reach into compiled graphs
    with torch.inference_mode(False), torch.enable_grad(), eagerly, untouched(model, batch, loss):
        return _diagnose(getattr(model, "_orig_mod", model), work, steps, rate)


@dataclass
class _Observed:
    """One forward and backward pass at some parameters."""

    loss: float
    captured: Captured
    gradients: dict[str, Tensor]


def _diagnose(model: nn.Module, work: Work, steps: int, rate: float) -> Diagnosis:
    parameters, found = dict(model.named_parameters()), plan(model)
    optimizer = torch.optim.SGD([p for p in parameters.values() if p.requires_grad], lr=rate)
    first = _observe(model, found, work)
    judged = {name: _shares(name, first, parameters) for name in first.captured.calls}
    history = {name: [_spread(calls)] for name, calls in first.captured.calls.items()}
    losses, stopped = [first.loss], ""
    for _ in range(steps):
        optimizer.step()
        try:
            seen = _observe(model, found, work)
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


def _observe(model: nn.Module, found: Plan, work: Work) -> _Observed:
    """Run the model forward and backward once, as a training loop does: the gradients stand in ``.grad`` after it."""
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.grad = None
    with capturing(found) as captured:
        loss = run(work, model)
        captured.backward = True
        try:
            loss.backward()
        except RuntimeError as problem:
            reason = str(problem).strip().splitlines()[0]
            raise UsageError(f"the backward pass of the loss fails: {reason}") from problem
    gradients = {name: p.grad.detach() for name, p in parameters.items() if p.grad is not None}
    return _Observed(float(loss.detach()), captured, gradients)


def _spread(calls: Sequence[Call]) -> Spread:
    return spread(torch.cat([call.factors.reshape(-1) for call in calls]))


def _shares(name: str, seen: _Observed, values: Mapping[str, Tensor]) -> Shares | str:
    """Return the shares of a site's step, or why there are none."""
    calls = seen.captured.calls[name]
    if calls[0].site.closed:
        return CLOSED
    if not all(call.traced for call in calls):
        return NO_GRAPH
    used = [call for call in calls if call.gradient is not None]
    if not used:
        return UNUSED
    names = [piece.parameter for piece in calls[0].site.trained_pieces]
    if not all(name in seen.gradients for name in names):
        return CLEARED
    step = {name: seen.gradients[name] for name in names}
    with torch.no_grad():
        return shares(used, values, step)


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
        Unjudged(attention.name, type(module).__name__, UNCALLED)
        for module, attention in found.attention.items()
        if not any(part.startswith(f"{attention.name}." if attention.name else "") for part in parts)
    ]
    return (*found.unjudged, *captured.refused.values(), *never, *idle)
