"""Make modules leaves of the graphs that ``torch.fx`` traces symbolically, as it does for those of ``torch.nn``."""

from __future__ import annotations

from typing import Any, cast

import torch.fx
from torch import Tensor, nn


def leaf(module: nn.Module, *inputs: object, **settings: object) -> Tensor | None:
    """Return the call of a module as one node of the graph being traced, a ``Proxy``; None outside such a trace.

    A module reads the shapes and values of its input, which ``torch.fx.symbolic_trace`` does not know. Raises TypeError
    if the module itself is traced: a leaf needs a model around it.
    """
    given = next((t for t in (*inputs, *settings.values()) if isinstance(t, torch.fx.Proxy)), None)
    if given is None:
        return None
    tracer: Any = given.tracer
    path = next((path for path, part in tracer.root.named_modules() if part is module), "")
    if not path:
        raise TypeError(
            f"{type(module).__name__}: torch.fx.symbolic_trace was called on the module itself, which is one node of "
            "a graph; call it on a model that holds the module, such as torch.nn.Sequential(module)"
        )
    return cast(Tensor, tracer.create_proxy("call_module", path, inputs, settings))
