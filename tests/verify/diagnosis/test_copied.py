"""Copies in huge pages equal ordinary copies."""

import mmap

import pytest
import torch
from torch import nn

from verify.diagnosis import copied as module
from verify.diagnosis.copied import copied


def tensors():
    torch.manual_seed(0)
    one = torch.randn(6, 5)
    return [
        one,
        one.T,
        one[:, ::2],
        one.bfloat16(),
        nn.Parameter(one),
        torch.arange(7),
        torch.randn(0, 3),
        one.to_sparse(),
    ]


@pytest.mark.parametrize("page", [1, 1 << 21])
def test_a_copy_has_the_same_numbers_and_a_place_of_its_own(page, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", page)
    for tensor in tensors():
        made, before = copied(tensor), tensor.detach().clone()
        assert made.dtype == tensor.dtype and made.shape == tensor.shape and not made.requires_grad
        assert torch.equal(made.to_dense(), before.to_dense())
        if tensor.layout == torch.strided and tensor.numel():
            made.zero_()
            assert torch.equal(tensor.detach(), before)


def test_a_system_without_large_pages(monkeypatch):
    class Room(mmap.mmap):
        def madvise(self, *_):
            raise OSError("on purpose")

    monkeypatch.setattr(module, "_PAGE", 1)
    monkeypatch.setattr(mmap, "mmap", Room)
    assert torch.equal(copied(torch.ones(3)), torch.ones(3))
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert torch.equal(copied(torch.ones(3)), torch.ones(3))
