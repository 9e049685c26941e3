"""Copies of tensors in memory that is quick to get: its first use costs several times what the copying does."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

_PAGE = 1 << 21  # bytes of a large page


def copied(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor, without its history.

    Memory comes in pages of 4 KiB, each of which the system clears at its first use; that of a large copy comes in
    pages of 2 MiB where the system has them.
    """
    plain, size = tensor.detach(), tensor.numel() * tensor.element_size()
    large = size >= _PAGE and hasattr(mmap, "MADV_HUGEPAGE") and plain.device.type == "cpu"
    if not large or type(plain) is not Tensor or plain.layout != torch.strided or not plain.is_contiguous():
        return plain.clone()
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # of a system without such pages
        room.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(room, dtype=plain.dtype).view(plain.shape).copy_(plain)
