"""Copy tensors into huge pages: the first use of ordinary memory costs several times as much as the copy."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

_PAGE = 1 << 21  # bytes of a huge page


def copied(tensor: Tensor) -> Tensor:
    """Return a detached copy of a tensor.

    The system clears each page at its first use, by default 4 KiB at a time; large copies use pages of 2 MiB if the
    system has them.
    """
    plain, size = tensor.detach(), tensor.numel() * tensor.element_size()
    large = size >= _PAGE and hasattr(mmap, "MADV_HUGEPAGE") and plain.device.type == "cpu"
    if not large or type(plain) is not Tensor or plain.layout != torch.strided or not plain.is_contiguous():
        return plain.clone()
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # raised on systems without such pages
        room.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(room, dtype=plain.dtype).view(plain.shape).copy_(plain)
