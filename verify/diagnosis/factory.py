"""``MODULE:FACTORY``: import a user's function and call it for a model, a batch and a loss.

a tuple (model, batch, loss) or (model, batch)    as ``verify.diagnose`` takes them
(model, batch, loss, optimizer)                   with the optimiser that trains the model
a model alone                                     a model that holds an example of its input, as ``example_inputs``,
                                                  ``example_input_array`` (Lightning) or ``dummy_inputs``
                                                  (transformers); without a loss in its output, half the mean
                                                  square of the output stands in for one
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codegen.capture.loading import where
from derive.errors import UsageError
from verify.diagnosis.batch import Loss

_HERE = str(Path(__file__))
EXAMPLES = ("example_inputs", "example_input_array", "dummy_inputs")


Made = tuple[nn.Module, Any, Loss | None, torch.optim.Optimizer | None]


def made(factory: Callable[[], Any], words: str) -> Made:
    """Return the model, batch, loss and optimiser that the factory makes; the last two are None if left out.

    Raises UsageError if the factory raises or returns anything else.
    """
    try:
        result = factory()
    except (Exception, SystemExit) as problem:
        raise UsageError(f"the factory {words!r} raised {where(problem, _HERE)}") from problem
    if isinstance(result, nn.Module):
        return _with_example(result)
    if isinstance(result, tuple) and len(result) in (2, 3, 4) and isinstance(result[0], nn.Module):
        model, batch, loss, optimizer = (*result, None, None)[:4]
        return model, batch, loss, optimizer
    shown = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
    raise UsageError(
        f"the factory {words!r} returned {shown}; return (model, batch, loss), where model is a torch module"
    )


def _with_example(model: nn.Module) -> Made:
    name = next((n for n in EXAMPLES if getattr(model, n, None) is not None), None)
    if name is None:
        raise UsageError(
            f"the factory returned a model alone, and this {type(model).__name__} holds no example of its input "
            f"({', '.join(EXAMPLES)}); return (model, batch, loss)"
        )
    return model, getattr(model, name), half_mean_square, None


def half_mean_square(output: Any) -> Tensor:
    """Return the loss in the output, or else half the mean square of its first floating-point tensor."""
    values = list(output.values()) if isinstance(output, Mapping) else output
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    candidates = values if isinstance(values, list | tuple) else [values]
    first = next((v for v in candidates if isinstance(v, Tensor) and v.is_floating_point()), None)
    if first is None:
        raise UsageError(
            f"the model returned a {type(output).__name__} without a floating-point tensor; return a loss with it"
        )
    return first.square().mean() / 2
