"""A public function as one step of a graph that is compiled.

A compiler that reads a function line by line guards every name that it meets, and tests all guards at each call: 230 of
them took 50 us where a small layer takes 600. A step is guarded by its arguments alone. What it does is traced further
down, with tensors that have shapes and types but no values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import Tensor
from torch.compiler import is_dynamo_compiling, is_exporting

from .operands import PLAIN, constant

Given = ParamSpec("Given")
Result = TypeVar("Result")

_STEPS: list[Callable[..., object]] = []


def as_step(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Return a function as one step, beside the function itself, which compilers read line by line."""

    def step(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        return function(*args, **kwargs)

    _STEPS.append(step)
    return step


def is_one_step(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether a compiler is to take a call as one step: plain tensors x (..., n), weight (m, n), bias (m) alone.

    Anything else is read line by line, so that what is wrong with it is said as it is without a compiler.
    """
    return (
        is_dynamo_compiling()
        and not is_exporting()
        and type(x) in PLAIN
        and type(weight) in PLAIN
        and weight.dim() == 2
        and x.shape[-1:] == weight.shape[1:]
        and x.dtype is weight.dtype
        and (bias is None or (type(bias) in PLAIN and bias.dtype is x.dtype and bias.shape == weight.shape[:1]))
        and _are_known()
    )


@constant
def _are_known() -> bool:
    """Tell the compiler of the steps, now that one is at work: to import it takes longer than all of this package."""
    from torch.compiler import allow_in_graph

    for step in _STEPS:
        allow_in_graph(step)  # type: ignore[no-untyped-call]
    return True
