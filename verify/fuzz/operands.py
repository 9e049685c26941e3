"""Operands of a case: memory layouts of plain tensors, and special tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor


def _last_axis_first(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() > 1 else t


def _every_other(t: Tensor) -> Tensor:
    return torch.stack([t, torch.full_like(t, float("nan"))], -1)[..., 0]


def _not_aligned(t: Tensor) -> Tensor:
    return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)


def _one_many_times(t: Tensor) -> Tensor:
    return t[:1].expand(t.shape) if t.numel() else t


def _channels_last(t: Tensor) -> Tensor:
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if t.dim() > 2 else t


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda t: t,
    "last axis first": _last_axis_first,
    "every other number": _every_other,
    "not aligned": _not_aligned,
    "one many times": _one_many_times,
    "channels last": _channels_last,
    "negated view": lambda t: torch._neg_view(-t),
}


class Own(Tensor):
    """A tensor subclass that behaves like a plain tensor."""


def _nested(t: Tensor) -> Tensor:
    return torch.nested.nested_tensor([t[:1], t[:2]])


# Special tensors that must give the same results as the plain tensor.
WRAPPED: dict[str, Callable[[Tensor], Tensor]] = {
    "own kind": lambda t: t.as_subclass(Own),
    "two in one": lambda t: TwoTensor(t.clone(), t.clone()),
}

# Operands that must be rejected with our own error messages.
REFUSED: dict[str, Callable[[Tensor], object]] = {
    "sparse": lambda t: t.to_sparse(),
    "nested": _nested,
    "complex": lambda t: torch.complex(t.float(), t.float()),
    "integers": lambda t: t.long(),
    "booleans": lambda t: t > 0,
    "another type": lambda t: t.to(torch.float16 if t.dtype != torch.float16 else torch.float32),
    "an axis more at its end": lambda t: t.unsqueeze(-1).repeat(*[1] * t.dim(), 2),
    "no tensor": lambda t: t.tolist(),
    "nothing": lambda t: float(t.numel()),
}
