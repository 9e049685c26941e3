"""The layers of the atlas in PyTorch's own operations, from their papers; every input has a batch axis in front."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.parametrizations import weight_norm

V = Mapping[str, Tensor]
SCALARS = {"alpha": 1.3, "scale": 1.05, "omega": 2.0, "beta": 0.7}


def _linear(v: V, name: str = "W") -> Tensor:
    return F.linear(v["x"], v[name])


def _affine(v: V) -> Tensor:
    return F.linear(v["x"], v["W"], v["b"])


def _weight_norm(v: V) -> Tensor:
    module = torch.nn.Linear(v["V"].shape[1], v["V"].shape[0], dtype=torch.float64)
    made = weight_norm(module).parametrizations.weight[0]
    return F.linear(v["x"], made(v["g0"][:, None], v["V"]), v["b"])


def _standardised(v: V) -> Tensor:
    centred = v["W"] - v["W"].mean(1, keepdim=True)
    return F.linear(v["x"], centred / centred.square().mean(1, keepdim=True).sqrt(), v["b"])


def _spectral(v: V) -> Tensor:
    sigma = torch.einsum("sk,kl,sl->s", v["left"], v["W"], v["right"])
    return _linear(v) / sigma[:, None] + v["b"]


def _dora(v: V) -> Tensor:
    whole = v["F"] + v["U"] @ v["A"]
    return torch.einsum("sij,sj->si", v["mag"] * F.normalize(whole, dim=1), v["x"])


def _lora(v: V) -> Tensor:
    rank = v["A"].shape[0]
    return torch.einsum("sij,sj->si", v["F"], v["x"]) + SCALARS["alpha"] / rank * (v["x"] @ (v["U"] @ v["A"]).T)


def _evonorm_b0(v: V) -> Tensor:
    u = _linear(v)
    batch = u.var((0, 1), False, keepdim=True).sqrt()
    instance = u.var(1, False, keepdim=True).sqrt()
    return u / torch.maximum(batch, v["v"] * u + instance) * v["gamma"] + v["beta"]


def _evonorm_s0(v: V) -> Tensor:
    u = _linear(v)
    return u * torch.sigmoid(v["v"] * u) / u.std(-1, correction=0, keepdim=True) * v["gamma"] + v["beta"]


def _unified(v: V) -> Tensor:
    return (_linear(v) - v["mean0"]) / (1e-3 + v["var0"] ** 2).sqrt() * v["gamma"] + v["beta"]


def _divisive(v: V) -> Tensor:
    u = _linear(v, "H")
    return u * torch.rsqrt(F.linear(u.square(), v["gamma"].square(), v["beta"].square()))


def _selu(v: V) -> Tensor:
    u = _affine(v)
    return SCALARS["scale"] * torch.where(u > 0, u, SCALARS["alpha"] * torch.expm1(u))


def _circulant(v: V) -> Tensor:
    product = torch.fft.rfft(v["w"]) * torch.fft.rfft(v["x"])
    return torch.fft.irfft(product, v["w"].numel()) + v["b"]


def _separable(v: V) -> Tensor:
    groups = v["D"].shape[0]
    return F.conv1d(F.conv1d(v["x"], v["D"][:, None], groups=groups), v["W"][..., None], v["b"])


def _distances(v: V, name: str) -> Tensor:
    return torch.cdist(v["x"], v[name]).square()


def _harmonic(v: V) -> Tensor:
    near = 1 / _distances(v, "W")
    return near / near.sum(-1, keepdim=True)


def _masked(v: V) -> Tensor:
    q, k, u = (_linear(v, name) for name in "QKV")
    return F.scaled_dot_product_attention(q, k, u, is_causal=True)


def _turned(heads: Tensor, v: V) -> Tensor:
    first, second = heads.chunk(2, -1)
    return heads * v["c"][:, None] + torch.cat([-second, first], -1) * v["s0"][:, None]


def _grouped(v: V) -> Tensor:
    q, k = (torch.einsum("raj,stj->srta", v[name], v["x"]) for name in "QK")
    return _turned(q, v) @ _turned(k, v).repeat_interleave(2, 1).mT / q.shape[-1] ** 0.5


def _linear_attention(v: V) -> Tensor:
    q, k, u = F.elu(_linear(v, "Q")) + 1, F.elu(_linear(v, "K")) + 1, _linear(v, "V")
    read, whole = torch.zeros_like(u), k.cumsum(1)
    for t in range(u.shape[1]):
        state = torch.einsum("sla,sli->sai", k[:, : t + 1], u[:, : t + 1])
        read[:, t] = torch.einsum("sa,sai->si", q[:, t], state)
    return read / (q * whole).sum(-1, keepdim=True)


def _softmax_free(v: V) -> Tensor:
    q, u = _linear(v, "Q"), _linear(v, "V")
    return torch.exp(-torch.cdist(q, q).square() / (2 * q.shape[-1] ** 0.5)) @ u


def _delta(v: V, gates: Tensor | None = None) -> Tensor:
    k, u, q = (_linear(v, name) for name in "KVQ")
    beta = torch.sigmoid(v["x"] @ v["w"])
    state = u.new_zeros(len(u), u.shape[-1], k.shape[-1])
    for t in range(u.shape[1]):
        kept = state if gates is None else gates[:, t, None, None] * state
        old = torch.einsum("sia,sa->si", kept, k[:, t])
        state = kept + beta[:, t, None, None] * torch.einsum("si,sa->sia", u[:, t] - old, k[:, t])
    return torch.einsum("sia,sa->si", state, q[:, -1])


def _state_space(v: V) -> Tensor:
    decay, state = torch.exp(-v["A"].exp()), torch.zeros_like(v["R"]).expand(len(v["x"]), *v["R"].shape)
    for t in range(3):
        state = decay * state + v["R"] * v["x"][:, t, :, None]
    return (v["C"] * state).sum(-1) + v["D"] * v["x"][:, 2]


def _router(v: V) -> Tensor:
    gates = (v["x"] @ v["G"].T).softmax(-1)
    return torch.einsum("se,eij,sj->si", gates, v["W"], v["x"])


REFERENCES: Mapping[str, Callable[[V], Tensor]] = {
    "swiglu": lambda v: (F.silu(_linear(v)) * _linear(v, "V")) @ v["O"].T,
    "geglu": lambda v: (F.gelu(_linear(v)) * _linear(v, "V")) @ v["O"].T,
    "bilinear": lambda v: _linear(v) * _linear(v, "V"),
    "moe-router": _router,
    "film": lambda v: F.linear(v["y"], v["G"], v["b"]) * v["x"] + F.linear(v["y"], v["H"], v["c"]),
    "weight-norm": _weight_norm,
    "weight-standardisation": _standardised,
    "spectral-norm": _spectral,
    "cosine-normalisation": lambda v: F.cosine_similarity(v["x"][:, None], v["W"], dim=-1),
    "dora": _dora,
    "scale-norm": lambda v: v["g0"] * F.normalize(_affine(v), dim=-1),
    "dynamic-tanh": lambda v: torch.addcmul(v["beta"], v["gamma"], torch.tanh(v["alpha"] * _affine(v))),
    "dynamic-isru": lambda v: _affine(v) * len(v["b"]) ** 0.5 / torch.hypot(v["beta"], _affine(v)),
    "evonorm-b0": _evonorm_b0,
    "evonorm-s0": _evonorm_s0,
    "selu": _selu,
    "unified-normalisation": _unified,
    "divisive-normalisation": _divisive,
    "lora": _lora,
    "tied-autoencoder": lambda v: F.linear(torch.sigmoid(_affine(v)), v["W"].T, v["c"]),
    "kronecker": lambda v: (torch.kron(v["A"], v["C"]) @ v["x"].flatten(1).T).T.reshape(-1, len(v["A"]), len(v["C"])),
    "circulant": _circulant,
    "separable-convolution": _separable,
    "radial": lambda v: torch.exp(-SCALARS["beta"] * _distances(v, "C")) @ v["O"].T,
    "harmonic": _harmonic,
    "siren": lambda v: torch.sin(SCALARS["omega"] * _affine(v)),
    "masked-attention": _masked,
    "grouped-query-attention": _grouped,
    "linear-attention": _linear_attention,
    "softmax-free-attention": _softmax_free,
    "delta-rule": _delta,
    "gated-delta-rule": lambda v: _delta(v, torch.sigmoid(v["x"] @ v["f"])),
    "s4d": _state_space,
    "cross-entropy": lambda v: F.cross_entropy(_affine(v), v["y"].long()[:, 0], reduction="none")[:, None],
}
