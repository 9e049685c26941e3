"""Make a public function one step of a compiled graph.

If a compiler reads a function line by line, it guards every name and tests all guards at each call: 230 guards took
50 us, compared with 600 us for a small layer. A step has guards for its arguments only. Its operations are traced at a
lower level, with tensors that have shapes and types but no values.
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
    """Return the function as one step; compilers still read the function itself line by line."""

    def step(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        return function(*args, **kwargs)

    _STEPS.append(step)
    return step


def is_one_step(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether a compiler should treat a call as one step: only for plain x (..., n), weight (m, n), bias (m).

    Any other call is read line by line, so that errors are the same as without a compiler.
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
    """Register the steps with the compiler once it runs; importing it takes longer than importing this package."""
    from torch.compiler import allow_in_graph

    for step in _STEPS:
        allow_in_graph(step)  # type: ignore[no-untyped-call]
    return True
