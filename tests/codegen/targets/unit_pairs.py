"""Queries and keys for unit rows, and the formula in float64 with its gradient by the projection matrix."""

import torch

DOUBLE, SINGLE, HALF, BRAIN = torch.float64, torch.float32, torch.float16, torch.bfloat16
ROUNDING = {DOUBLE: 1e-15, SINGLE: 2e-7, HALF: 2.1e-4, BRAIN: 1.66e-3}  # relative, root mean square


def operands(shape, dtype=DOUBLE, device="cpu", seed=0):
    """Return q (N, H, L, d) and k (N, H, S, d) as views of packed tokens, and a gradient of each."""
    N, H, L, S, d = shape
    generator = torch.Generator().manual_seed(seed)
    packed = (torch.randn(N, T, 3, H, d, generator=generator, dtype=DOUBLE).to(device, dtype) for T in (L, S))
    q, k = (tokens[:, :, part].transpose(1, 2) for part, tokens in enumerate(packed))
    gradients = [torch.randn(x.shape, generator=generator, dtype=DOUBLE).to(device, dtype) for x in (q, k)]
    return [q.requires_grad_(), k.requires_grad_()], gradients


def exact(x, g):
    """Return unit rows and the gradient with respect to x, (1 - u u^T) g / |x|, for non-zero rows."""
    x, g = x.detach().double(), g.double()
    length = x.norm(dim=-1, keepdim=True)
    u = x / length
    projection = torch.eye(x.shape[-1], dtype=DOUBLE, device=x.device) - u[..., :, None] * u[..., None, :]
    return u, torch.einsum("...ij,...j->...i", projection, g) / length


def results(pair, tensors, gradients):
    """Return the unit rows of both, then the gradients with respect to both."""
    u_q, _, u_k, _ = pair.apply(*tensors)
    return [t.detach() for t in (u_q, u_k, *torch.autograd.grad((u_q, u_k), tensors, gradients))]


def expected(tensors, gradients):
    """Return the same by the formula, in float64."""
    (u_q, d_q), (u_k, d_k) = (exact(x, g) for x, g in zip(tensors, gradients, strict=True))
    return [u_q, u_k, d_q, d_k]


def errors(ours, right):
    """Return the root mean square of each difference relative to that of the exact tensor."""
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(ours, right, strict=True)]


def worst(ours, right):
    """Return the largest of the errors; the error of a tensor with few entries, which is random, counts half."""
    return max(e * (1 if b.numel() >= 200 else 0.5) for e, b in zip(errors(ours, right), right, strict=True))
