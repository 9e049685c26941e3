"""The passes of a map of rows as operators, in few steps: a graph that is compiled waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ....runtime.operators import Kept, Passes, apart

_ENOUGH = 2**20  # numbers of x from which on kernels save more than two calls of operators cost


class RowPasses(Passes):
    """The passes of a class whose forward pass takes autograd's context and gives the output alone.

    ``saved`` are the places of the tensors that the backward pass reads; it is given all.
    """

    def __init__(self, function: Any, plain: Any, count: int, saved: Sequence[int]) -> None:
        super().__init__(function, plain, count, 1)
        self._picked = itemgetter(*saved)

    def forward(self, *given: Any) -> tuple[Tensor, ...]:
        """Return the output and the row scale."""
        context = Kept()
        z = self._function.forward(context, *given)
        found = z, context.saved_tensors[-1]
        return found if context.ready is not None else apart(found, given)

    def backward(self, g: Tensor, *given: Any) -> tuple[Tensor, ...]:
        """Return a gradient for each tensor, an empty one where it is not wanted."""
        *tensors, f, kappa, wanted = given
        context = Kept((*wanted, False))
        context.ready, context.kappa = True, kappa
        context.saved_tensors = (*self._picked(tensors), f)
        if torch.is_grad_enabled():
            with torch.no_grad():
                found = self._function.backward(context, g)
        else:
            found = self._function.backward(context, g)
        return tuple([g.new_empty(0) if d is None else d.contiguous() for d in found[: self.count]])


def suits(x: Tensor, weight: Tensor) -> bool:
    """Return whether a graph that is compiled takes less time with the kernels than where the compiler fuses."""
    return x.numel() >= _ENOUGH
