"""Modules as papers and libraries write them, each with a factory: typical modules of users."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Factory = Any


class SwiGLU(nn.Module):
    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(n, m), nn.Linear(n, m), nn.Linear(m, n)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def swiglu(n: int, m: int) -> Factory:
    return SwiGLU(n, m), torch.randn(5, n)


class GatedMLP(nn.Module):
    """One projection to both halves, as GeGLU is often written."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(n, 2 * m, bias=False), nn.Linear(m, n, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate, approximate="tanh"))


def gated_mlp(n: int, m: int) -> Factory:
    return GatedMLP(n, m), torch.randn(5, n)


class CausalAttention(nn.Module):
    """Heads from one projection, a triangular mask, explicit attention weights."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(heads * width, 3 * heads * width), nn.Linear(heads * width, heads * width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        b, t, e = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4)
        seen = torch.tril(torch.ones(t, t, dtype=torch.bool))
        scores = (q @ k.transpose(-1, -2)) / (e // self.heads) ** 0.5
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, t, e))


def causal_attention(heads: int, width: int) -> Factory:
    return CausalAttention(heads, width), torch.randn(2, 3, heads * width)


def torch_attention(heads: int, width: int) -> Factory:
    return nn.MultiheadAttention(heads * width, heads, batch_first=True), (torch.randn(2, 3, heads * width),) * 3


class GroupedAttention(nn.Module):
    """Grouped queries with rotary positions, as in today's language models."""

    def __init__(self, shared: int, group: int, half: int) -> None:
        super().__init__()
        width, heads = 2 * half, shared * group
        size = heads * width
        self.shared, self.group, self.width = shared, group, width
        self.q = nn.Linear(size, heads * width, bias=False)
        self.k = nn.Linear(size, shared * width, bias=False)
        self.v = nn.Linear(size, shared * width, bias=False)
        self.o = nn.Linear(heads * width, size, bias=False)
        self.register_buffer("inverse", 1 / 100 ** (torch.arange(0, width, 2).double() / width))

    def rotated(self, x: Tensor) -> Tensor:
        angle = torch.outer(torch.arange(x.shape[-2]).to(self.inverse), self.inverse)
        both = torch.cat([angle, angle], -1)
        first, second = x.chunk(2, -1)
        return x * both.cos() + torch.cat([-second, first], -1) * both.sin()

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (p(x).view(b, t, -1, self.width).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = self.rotated(q), self.rotated(k)
        shape = (b, self.shared, self.group, t, self.width)
        k, v = (y[:, :, None].expand(shape).reshape(b, -1, t, self.width) for y in (k, v))
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(found.transpose(1, 2).reshape(b, t, -1))


def grouped_attention(shared: int, group: int, half: int) -> Factory:
    return GroupedAttention(shared, group, half), torch.randn(2, 2, shared * group * 2 * half)


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, r: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(c, r, 1), nn.Conv2d(r, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        w = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(F.relu(self.down(w))))


def squeeze_excite(c: int, r: int) -> Factory:
    return SqueezeExcite(c, r), torch.randn(2, c, 2, 3)


class TokenMixer(nn.Module):
    def __init__(self, t: int, c: int, h: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c)
        self.tokens = nn.Sequential(nn.Linear(t, h), nn.GELU(), nn.Linear(h, t))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)


def token_mixer(t: int, c: int, h: int) -> Factory:
    return TokenMixer(t, c, h), torch.randn(2, t, c)


class LoRA(nn.Module):
    def __init__(self, n: int, m: int, r: int) -> None:
        super().__init__()
        self.base = nn.Linear(n, m).requires_grad_(False)
        self.A, self.B = nn.Parameter(torch.randn(r, n)), nn.Parameter(torch.zeros(m, r))
        self.scale = 16 / r

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.A.T @ self.B.T * self.scale


def lora(n: int, m: int, r: int) -> Factory:
    return LoRA(n, m, r), torch.randn(4, n)


class SoftMixture(nn.Module):
    """A mixture in which all experts contribute, weighted by a soft gate."""

    def __init__(self, n: int, h: int, k: int) -> None:
        super().__init__()
        self.gate = nn.Linear(n, k)
        self.up, self.down = nn.Parameter(torch.randn(k, n, h)), nn.Parameter(torch.randn(k, h, n))

    def forward(self, x: Tensor) -> Tensor:
        share = self.gate(x).softmax(-1)
        hidden = F.gelu(torch.einsum("bn,knh->bkh", x, self.up))
        return torch.einsum("bk,bkh,khn->bn", share, hidden, self.down)


def soft_mixture(n: int, h: int, k: int) -> Factory:
    return SoftMixture(n, h, k), torch.randn(4, n)


def lstm_cell(n: int, m: int) -> Factory:
    return nn.LSTMCell(n, m), (torch.randn(2, n), (torch.randn(2, m), torch.randn(2, m)))


def gru_cell(n: int, m: int) -> Factory:
    return nn.GRUCell(n, m), (torch.randn(2, n), torch.randn(2, m))


def convolution_block(n: int, m: int) -> Factory:
    return nn.Sequential(
        nn.Conv2d(n, m, 2), nn.BatchNorm2d(m, track_running_stats=False), nn.ReLU(inplace=True)
    ), torch.randn(2, n, 3, 3)


def separable(c: int, m: int) -> Factory:
    return nn.Sequential(nn.Conv1d(c, c, 3, groups=c, padding=1), nn.Conv1d(c, m, 1)), torch.randn(2, c, 4)


def layer_norm(n: int) -> Factory:
    return nn.LayerNorm(n), torch.randn(3, n)


def rms_norm(n: int) -> Factory:
    return nn.RMSNorm(n, eps=1e-6), torch.randn(3, n)


def group_norm(groups: int, per: int) -> Factory:
    return nn.GroupNorm(groups, groups * per), torch.randn(2, groups * per, 3)


def linear(n: int, m: int) -> Factory:
    return nn.Linear(n, m), torch.randn(5, n)


def embedding(v: int, n: int) -> Factory:
    return nn.Embedding(v, n), torch.randint(0, 2, (3, 4))


def transposed(c: int, m: int) -> Factory:
    return nn.ConvTranspose1d(c, m, 3, stride=2, padding=1), torch.randn(2, c, 3)


class WeightNorm(nn.Module):
    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(torch.randn(m, n)), nn.Parameter(torch.ones(m, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.g * self.v / self.v.norm(dim=1, keepdim=True))


def weight_norm(n: int, m: int) -> Factory:
    return WeightNorm(n, m), torch.randn(3, n)


class PreNormBlock(nn.Module):
    """A residual block: RMS norm with gain, then a gated MLP."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.RMSNorm(n, eps=1e-6), SwiGLU(n, m)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


def pre_norm_block(n: int, m: int) -> Factory:
    return PreNormBlock(n, m), torch.randn(3, n)


class LinearAttention(nn.Module):
    """Attention without a softmax: a running sum of outer products."""

    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(n, d), nn.Linear(n, d), nn.Linear(n, d)

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        state = torch.einsum("btd,bte->btde", k, self.v(x)).cumsum(1)
        return torch.einsum("btd,btde->bte", q, state) / (q * k.cumsum(1)).sum(-1, keepdim=True)


def linear_attention(n: int, d: int) -> Factory:
    return LinearAttention(n, d), torch.randn(2, 3, n)


class Siren(nn.Module):
    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(m, n) / math.sqrt(n)), nn.Parameter(torch.zeros(m))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * F.linear(x, self.weight, self.bias))


def siren(n: int, m: int) -> Factory:
    return Siren(n, m), torch.randn(3, n)


class StopGradient(nn.Module):
    """A scale that the step holds fixed."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.map = nn.Linear(n, m)

    def forward(self, x: Tensor) -> Tensor:
        z = self.map(x)
        return z / (1 + z.detach().square().mean(-1, keepdim=True)).sqrt()


def stop_gradient(n: int, m: int) -> Factory:
    return StopGradient(n, m), torch.randn(3, n)


class CosineHead(nn.Module):
    """Class scores by the angle to a prototype, with a scalar temperature."""

    def __init__(self, n: int, classes: int) -> None:
        super().__init__()
        self.weight, self.temperature = nn.Parameter(torch.randn(classes, n)), nn.Parameter(torch.tensor(16.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.temperature * F.cosine_similarity(x.unsqueeze(1), self.weight.unsqueeze(0), dim=-1)


def cosine_head(n: int, classes: int) -> Factory:
    return CosineHead(n, classes), torch.randn(3, n)


class TiedHead(nn.Module):
    """An embedding whose table is also the output's weight."""

    def __init__(self, vocabulary: int, n: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, n), nn.Linear(n, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens)))


def tied_head(vocabulary: int, n: int) -> Factory:
    return TiedHead(vocabulary, n), torch.randint(0, 2, (2, 3))


class RadialBasis(nn.Module):
    """Distances from centres by ``torch.cdist``, whose slope ``jacrev`` gets wrong in torch 2.13."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(m, n))

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(-(torch.cdist(x, self.centres) ** 2))


def radial_basis(n: int, m: int) -> Factory:
    return RadialBasis(n, m), torch.randn(3, n)


class HeldAngles(nn.Module):
    """Detached angles and a detached scale, as in the rotary positions of transformers."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.map = nn.Linear(n, n)
        self.register_buffer("rates", torch.rand(n))

    @torch.no_grad()
    def turned(self, x: Tensor) -> tuple[Tensor, Tensor]:
        angle = x[..., None, 0] * self.rates
        return angle.cos(), angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        cosine, sine = self.turned(x)
        z = self.map(x)
        with torch.no_grad():
            power = z.square().mean(-1, keepdim=True)
        return z * cosine + power * sine


def held_angles(n: int) -> Factory:
    return HeldAngles(n), torch.randn(2, n)


class Structured(nn.Module):
    """A weight made of a Kronecker product and a diagonal, and pooling by the maximum."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(a, a)), nn.Parameter(torch.randn(b, b))
        self.diagonal = nn.Parameter(torch.randn(a * b))

    def forward(self, x: Tensor) -> Tensor:
        z = x @ (torch.kron(self.left, self.right) + torch.diag(self.diagonal))
        return z * F.adaptive_max_pool1d(F.softshrink(z, 0.2).unsqueeze(1), 1).squeeze(1)


def structured(a: int, b: int) -> Factory:
    return Structured(a, b), torch.randn(3, a * b)


class Decaying(nn.Module):
    """Tokens mixed with weights that decay by their distance, as in retention."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.value, self.rate = nn.Linear(n, n), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        distance = (place[:, None] - place[None, :]).to(x.dtype)
        return torch.tril(self.rate.abs() ** distance) @ F.threshold(self.value(x), 0.1, 0.3)


def decaying(n: int) -> Factory:
    return Decaying(n), torch.randn(2, 3, n)


QUICK = (
    structured,
    decaying,
    held_angles,
    cosine_head,
    tied_head,
    swiglu,
    gated_mlp,
    lora,
    linear,
    embedding,
    layer_norm,
    rms_norm,
    weight_norm,
    siren,
    separable,
    stop_gradient,
)
SLOW = (
    causal_attention,
    torch_attention,
    grouped_attention,
    squeeze_excite,
    token_mixer,
    soft_mixture,
    lstm_cell,
    gru_cell,
    convolution_block,
    group_norm,
    transposed,
    pre_norm_block,
    linear_attention,
)
