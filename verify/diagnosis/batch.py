"""Determine the arguments of a model and of its loss from a batch, and check that they are usable.

    batch                      the model is called with     the loss is called with
    a tensor                   the tensor                   (output), or (output, batch) if it takes two
    a mapping                  keyword arguments            the same
    a pair, a loss of two      the first                    (output, second)
    another tuple or list      positional arguments         (output)
    anything                   by the loss itself           (model, batch), if its first argument is named ``model``

Without a loss, the model's output is the loss or has one as ``.loss`` (or under the key ``"loss"``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from derive.errors import UsageError

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Work:
    """The arguments of the model, and the loss as a function of its output, or of a function that runs the model."""

    arguments: tuple[Any, ...]
    words: dict[str, Any]
    loss: Callable[[Any], Tensor]
    runs_itself: bool = False
    batch: Any = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The model's input tensors, keyed by the expression that reaches them; labels and masks are left out."""
        given = (self.arguments, self.words) if not self.runs_itself else (_model_part(self.batch), {})
        named = [*_tensors(given[0], "input"), *_tensors(given[1], "input")]
        if len(named) == 1:
            named = [("the input", named[0][1])]
        return {name: t for name, t in named if not any(word in name for word in ("label", "target", "mask"))}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the batch, keyed by the expression that reaches it."""
        return dict(_tensors(self.batch, "batch"))


def arrange(model: nn.Module, batch: Any, loss: Loss | None) -> Work:
    """Return the arranged arguments; raise UsageError for an unusable model, batch or loss."""
    check_model(model)
    if any(p.is_inference() for p in model.parameters()):
        raise UsageError(
            "the model was made in inference mode, where no step can be taken; create it outside inference_mode"
        )
    if loss is not None and not callable(loss):
        raise UsageError(f"the loss is a {type(loss).__name__}; give a function of the model's output, or None")
    _check_tensors(model, batch)
    needed = [] if loss is None else _needed(loss)
    if loss is not None and needed[:1] == ["model"]:
        return Work((), {}, lambda call: loss(call, batch), runs_itself=True, batch=batch)
    two = len(needed) >= 2
    pair = two and isinstance(batch, tuple | list) and len(batch) == 2
    inputs, target = batch if pair else (batch, batch)

    def _value(output: Any) -> Tensor:
        if loss is None:
            return _own_loss(output)
        return loss(output, target) if two else loss(output)

    if isinstance(inputs, Mapping):
        return Work((), dict(inputs), _value, batch=batch)
    return Work(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}, _value, batch=batch)


def _model_part(batch: Any) -> Any:
    """Return the part of a batch that a loss most likely passes to the model: the first of a pair, or all."""
    return batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else batch


def scalar(loss: Any) -> Tensor:
    """Return the loss if it is one number that depends on parameters; else raise UsageError."""
    if not isinstance(loss, Tensor):
        raise UsageError(f"the loss is a {type(loss).__name__}; return a tensor with one number")
    if loss.numel() != 1:
        raise UsageError(f"the loss has shape {tuple(loss.shape)}; it must be one number: take its mean, for example")
    if not loss.requires_grad:
        raise UsageError("the loss depends on no trained parameter; compute it from the model's output")
    return loss.reshape(())


def _own_loss(output: Any) -> Any:
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if found is None and isinstance(output, Tensor) and output.numel() == 1:
        found = output
    if found is None:
        raise UsageError(
            f"no loss was given and the model's output, a {type(output).__name__}, holds none; give a loss, or labels "
            "in the batch if the model computes its loss from them"
        )
    return found


def _needed(loss: Loss) -> list[str]:
    """Return the names of the positional arguments without default; a loss with two of them takes a target."""
    try:
        parameters = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values()
    except (TypeError, ValueError):
        return []  # a builtin of torch, such as torch.sum
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in places and p.default is p.empty]


def check_model(model: object) -> None:
    """Raise UsageError unless the model is a module with trainable parameters of known shapes."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    parameters = list(model.named_parameters())
    if not parameters:
        raise UsageError(f"the model, a {type(model).__name__}, has no parameters; there is no step to judge")
    lazy = next((name for name, p in parameters if nn.parameter.is_lazy(p)), None)
    if lazy:
        raise UsageError(f"the shape of the parameter {lazy!r} is not known yet; call the model once first")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UsageError("the model contains modules compiled by torch.jit; give the model from before compilation")
    if not any(p.requires_grad for _, p in parameters):
        raise UsageError("every parameter of the model is frozen; let at least one require a gradient")


def _check_tensors(model: nn.Module, batch: Any) -> None:
    """Raise UsageError for a batch without tensors or on a device other than the model's."""
    homes = {p.device for p in model.parameters()}
    tensors = list(_tensors(batch, "batch"))
    if not tensors:
        raise UsageError(f"the batch, a {type(batch).__name__}, holds no tensor; give the arguments of the model")
    for name, tensor in tensors:
        if len(homes) == 1 and tensor.device not in homes:
            home = next(iter(homes))
            raise UsageError(
                f"{name} is on {tensor.device} and the model on {home}; move one: {name}.to({str(home)!r})"
            )


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in nested tuples, lists and mappings, with the expression that reaches it."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(part, f"{name}[{key!r}]")
    elif isinstance(value, tuple | list):
        for place, part in enumerate(value):
            yield from _tensors(part, f"{name}[{place}]")


def run(work: Work, call: Callable[..., Any]) -> Tensor:
    """Return the loss of one call of the model; an exception in the user's code becomes a UsageError with its text."""
    try:
        output = call if work.runs_itself else call(*work.arguments, **work.words)
    except UsageError:
        raise
    except Exception as problem:
        raise UsageError(f"the model cannot be run on the batch: {first_line(problem)}") from problem
    try:
        value = work.loss(output)
    except UsageError:
        raise
    except Exception as problem:
        raise UsageError(f"the loss cannot be computed from the model's output: {first_line(problem)}") from problem
    return scalar(value)


def first_line(problem: BaseException) -> str:
    """Return the kind of a problem and the first line of its message."""
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0] if lines else 'no message'}"
