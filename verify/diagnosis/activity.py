"""Record what a forward pass does between layers: softmaxes, activation functions, mutually broadcast operands.

A dispatch mode sees every operation below autograd, including those inside torch's attention; a function mode sees the
calls in the user's code, with the shapes used there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from verify.diagnosis.samples import evenly

_MASKED = -1e4  # scores below it are masked
_QUERIES = 64  # queries of each attention whose scores are recomputed
_SCORES = 1 << 16  # scores of each softmax that are examined
_SATURATED = {"tanh": (-0.97, 0.97), "sigmoid": (0.02, 0.98), "hardtanh": (-1.0, 1.0), "hardsigmoid": (0.0, 1.0)}
_ACTIVE_ABOVE = {
    "relu": 0.0,
    "threshold": 0.0,
    "gelu": -3.0,
    "silu": -6.0,
}  # threshold on the input, below which the slope is almost zero
_LOSSES = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "gaussian_nll_loss"}
_PAIRWISE = _LOSSES | {"sub", "rsub", "__sub__", "__rsub__", "subtract", "mul", "__mul__", "__rmul__", "div", "add"}


@dataclass(frozen=True)
class Scores:
    """The scores of one softmax: mean standard deviation along its axis, mean largest probability, axis length."""

    layer: str
    deviation: float
    largest: float
    keys: int
    logarithmic: bool


@dataclass(frozen=True)
class Units:
    """One use of an activation function: the share of saturated entries, and of units that no sample activates."""

    layer: str
    function: str
    saturated: float
    dead: float
    rows: int
    units: int


@dataclass(frozen=True)
class Broadcast:
    """Two operands that broadcast each other, one of which depends on parameters."""

    function: str
    trained: tuple[int, ...]
    other: tuple[int, ...]
    result: tuple[int, ...]


@dataclass
class Activity:
    """The softmaxes, activation functions and broadcasts of one forward pass, in order."""

    scores: list[Scores] = field(default_factory=list)
    units: list[Units] = field(default_factory=list)
    broadcasts: list[Broadcast] = field(default_factory=list)


class _Operations(TorchDispatchMode):
    def __init__(self, activity: Activity, running: list[str]) -> None:
        super().__init__()
        self.activity, self.running = activity, running

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Compiled graphs are off here, and torch's guard around each operation costs as much as the operation.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        note = _NOTES.get(name.rstrip("_"))
        if note is not None and _is_plain(args[0]) and args[0].numel():
            note(self.activity, self.running[-1] if self.running else "", name.rstrip("_"), args, kwargs or {}, result)
        return result


def _is_plain(value: Any) -> bool:
    return type(value) in (Tensor, nn.Parameter) and value.is_floating_point() and value.device.type != "meta"


def _softmax(activity: Activity, layer: str, name: str, args: Any, _: Any, result: Tensor) -> None:
    scores, axis = args[0].detach(), args[1]
    if scores.dim() and scores.shape[axis] >= 3:
        activity.scores.append(_scores(layer, scores.movedim(axis, -1), "log" in name))


def _scores(layer: str, scores: Tensor, logarithmic: bool) -> Scores:
    rows = scores.reshape(-1, scores.shape[-1])
    scores = rows[evenly(len(rows), max(_QUERIES, _SCORES // rows.shape[-1]), rows.device)].float()
    shown = scores.isfinite() & (scores > _MASKED)
    count = shown.sum(-1).clamp_min(1)
    kept = scores.where(shown, 0.0)
    mean = kept.sum(-1) / count
    deviation = ((kept - mean.unsqueeze(-1)).where(shown, 0.0).square().sum(-1) / count).sqrt()
    wide = count >= 3
    largest = torch.softmax(scores, -1).amax(-1)
    if not bool(wide.any()):
        return Scores(layer, 0.0, 0.0, scores.shape[-1], logarithmic)
    return Scores(layer, float(deviation[wide].mean()), float(largest[wide].mean()), scores.shape[-1], logarithmic)


def _attention(activity: Activity, layer: str, _: str, args: Any, words: Any, __: Any) -> None:
    q, k = args[0].detach(), args[1].detach()
    if q.shape[1] != k.shape[1] or k.shape[-2] < 3:
        return
    scale = words.get("scale") or q.shape[-1] ** -0.5
    activity.scores.append(_scores(layer, q[:4, :, -_QUERIES:] @ k[:4].mT * scale, False))


def _activation(activity: Activity, layer: str, name: str, args: Any, _: Any, result: Tensor) -> None:
    low, high = _SATURATED.get(name, (-torch.inf, torch.inf))
    made = result.detach()
    saturated = float(((made <= low) | (made >= high)).float().mean()) if name in _SATURATED else 0.0
    axis = 1 if made.dim() > 3 else made.dim() - 1  # for images, units are axis 1
    units, dead = made.shape[axis] if made.dim() > 1 else 1, 0.0
    if name in _ACTIVE_ABOVE:
        read = made if name in ("relu", "threshold") else args[0].detach()
        others = [k for k in range(read.dim()) if k != axis or read.dim() == 1]
        dead = float((read.amax(others) <= _ACTIVE_ABOVE[name]).float().mean())
    activity.units.append(Units(layer, name, saturated, dead, made.numel() // units, units))


_NOTES = {
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "_log_softmax": _softmax,
    **dict.fromkeys((*_SATURATED, *_ACTIVE_ABOVE), _activation),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}


class _Written(TorchFunctionMode):
    def __init__(self, activity: Activity) -> None:
        super().__init__()
        self.activity = activity

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _PAIRWISE:
            pair = [t for t in (*args, *(kwargs or {}).values()) if isinstance(t, Tensor)][:2]
            if len(pair) == 2 and _stretch_each_other(*pair):
                trained, other = pair if pair[0].requires_grad else reversed(pair)
                result = tuple(torch.broadcast_shapes(trained.shape, other.shape))
                found = Broadcast(func.__name__, tuple(trained.shape), tuple(other.shape), result)
                self.activity.broadcasts.append(found)
        return func(*args, **(kwargs or {}))


def _stretch_each_other(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of equal size but different axes broadcast to a larger one, and only one is trained."""
    if one.requires_grad == other.requires_grad or one.dim() == other.dim() or one.numel() != other.numel():
        return False
    try:
        result = torch.broadcast_shapes(one.shape, other.shape)
    except RuntimeError:
        return False
    return result.numel() > one.numel()


@contextmanager
def watched_activity(model: nn.Module) -> Iterator[Activity]:
    """Record what happens between the layers inside the context."""
    activity, running = Activity(), list[str]()
    handles: list[Any] = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        handles.append(module.register_forward_hook(lambda *_: running.__delitem__(-1), always_call=True))
    try:
        with _Written(activity), _Operations(activity, running):
            yield activity
    finally:
        for handle in handles:
            handle.remove()
