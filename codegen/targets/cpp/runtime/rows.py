"""The passes of a map of rows as operators, in few steps, since a compiled graph waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ....runtime.operators import Kept, Passes, apart

_ENOUGH = 2**20  # entries of x from which on kernels save more than two operator calls cost


class RowPasses(Passes):
    """The passes of a class whose forward pass takes autograd's context and returns only the output.

    ``saved`` are the positions of the tensors that the backward pass reads; it gets all of them.
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
        """Return a gradient for each tensor, empty if it is not wanted."""
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
    """Return whether a compiled graph is faster with the kernels than with the compiler's own fusion."""
    return x.numel() >= _ENOUGH
