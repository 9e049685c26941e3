"""Messages for wrong arguments: the value, the cause, the fix."""

import math

import pytest
import torch

import affine_divergence as ad

F = ad.functional
x, W, b = torch.ones(5, 4), torch.ones(3, 4), torch.ones(3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: ad.AffineLike(4, 3, bias=False),
            ValueError,
            "exists only with a bias; keep the bias, or use NormLike",
        ),
        (lambda: F.affine_like(x, W, None), ValueError, "the bias is None"),
        (lambda: ad.AffineLike(4, 3, kappa=0), ValueError, "kappa is 0; give a finite number above 0"),
        (lambda: ad.AffineLike(4, 3, kappa=-1.0), ValueError, "kappa is -1.0"),
        (lambda: ad.AffineLike(4, 3, kappa=math.nan), ValueError, "kappa is nan"),
        (lambda: ad.AffineLike(4, 3, kappa=math.inf), ValueError, "kappa is inf"),
        (lambda: ad.AffineLike(4, 3, kappa="1"), TypeError, "kappa is a str"),
        (lambda: ad.AffineLike(4, 3, kappa=True), TypeError, "kappa is a bool"),
        (lambda: ad.AffineLike(4, 3, kappa=torch.ones(())), TypeError, "kappa is a Tensor"),
        (lambda: ad.NormLike(4, 3, kappa=1.0), ValueError, "give a finite number above 1"),
        (lambda: ad.NormLike(4, 3, bias=False, kappa=0.0), ValueError, "give a finite number above 0"),
        (lambda: F.norm_like(x, W, b, kappa=0.5), ValueError, "norm_like: kappa is 0.5"),
        (lambda: ad.AffineLike(0, 3), ValueError, "in_features is 0"),
        (lambda: ad.NormLike(4, -3), ValueError, "out_features is -3"),
        (lambda: ad.NormLike(4.0, 3), TypeError, "in_features is 4.0"),
        (lambda: ad.AffineLike(True, 3), TypeError, "in_features is True"),
        (lambda: F.affine_like(x[:, :3], W, b), ValueError, r"x has shape \(5, 3\) but weight \(3, 4\)"),
        (lambda: F.affine_like(torch.ones(()), W, b), ValueError, r"x has shape \(\)"),
        (lambda: F.affine_like(x, W[0], b), ValueError, "give a matrix"),
        (lambda: F.affine_like(x, W, b[:2]), ValueError, r"bias has shape \(2,\)"),
        (lambda: F.norm_like(x, W, b[:, None]), ValueError, r"bias has shape \(3, 1\)"),
        (lambda: F.affine_like(x.long(), W, b), TypeError, "x has type torch.int64"),
        (lambda: F.affine_like(x.to(torch.complex64), W, b), TypeError, "complex64"),
        (lambda: F.affine_like(x.double(), W, b), TypeError, "the types differ"),
        (lambda: F.norm_like(x, W.half()), TypeError, "the types differ"),
        (lambda: F.affine_like([1.0], W, b), TypeError, "x is a list; give a tensor"),
    ],
)
def test_message(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_module_messages_name_the_module():
    with pytest.raises(ValueError, match="AffineLike: kappa"):
        ad.AffineLike(4, 3, kappa=-1)
