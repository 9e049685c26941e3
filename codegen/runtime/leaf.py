"""Modules as steps of a graph that ``torch.fx`` traces symbolically, as it takes those of ``torch.nn``."""

from __future__ import annotations

from typing import Any, cast

import torch.fx
from torch import Tensor, nn


def leaf(module: nn.Module, *inputs: object, **settings: object) -> Tensor | None:
    """Return the call of a module as one step of the graph that is traced, a ``Proxy``; None if nothing is.

    A module reads the shapes and values of its input, of which ``torch.fx.symbolic_trace`` knows nothing. Raise
    TypeError for a module that is traced alone: a step belongs to a model around it.
    """
    given = next((t for t in (*inputs, *settings.values()) if isinstance(t, torch.fx.Proxy)), None)
    if given is None:
        return None
    tracer: Any = given.tracer
    path = next((path for path, part in tracer.root.named_modules() if part is module), "")
    if not path:
        raise TypeError(
            f"{type(module).__name__}: torch.fx.symbolic_trace was given the module itself, which is one step of a "
            "graph; give it a model that holds the module, such as torch.nn.Sequential(module)"
        )
    return cast(Tensor, tracer.create_proxy("call_module", path, inputs, settings))
