"""Layers of today's models as their papers write them, each with the same layer in PyTorch's own operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.derive.zoo import Made, V

AFFINE = "u[i] = sum[j](W[i,j]*x[j]) + b[i]"


def _affine(v: V) -> Tensor:
    return F.linear(v["x"], v["W"], v["b"])


def _evonorm(v: V) -> Tensor:
    u = _affine(v)
    return u * torch.sigmoid(v["v"] * u) / (u.var(-1, False, keepdim=True) + 1e-3).sqrt()


def _rotated(q: Tensor, v: V) -> Tensor:
    """Rotary positions that rotate one half into the other: ``q cos + rotate_half(q) sin``."""
    turned = torch.cat([-q[..., 1:], q[..., :1]], -1)
    return q * v["c"][:, None] + turned * v["d"][:, None]


def _grouped(v: V) -> Tensor:
    """Grouped-query attention with two query heads per key head, rotary positions, causal (width 2)."""
    heads = {name: torch.einsum("rhj,stj->srth", v[name], v["x"]) for name in ("Q", "K", "U")}
    q, k, u = _rotated(heads["Q"], v), _rotated(heads["K"], v), heads["U"]
    k, u = (t.repeat_interleave(2, 1) for t in (k, u))
    return F.scaled_dot_product_attention(q, k, u, is_causal=True).transpose(1, 2).flatten(2)


def _alibi(v: V) -> Tensor:
    """Attention weights with a causal mask and a penalty on distance."""
    q, k = (torch.einsum("aj,stj->sta", v[name], v["x"]) for name in ("Q", "K"))
    place = torch.arange(q.shape[1])
    distance = place[:, None] - place
    scores = q @ k.mT / 2**0.5 - 0.5 * distance
    return scores.masked_fill(distance < 0, -torch.inf).softmax(-1)


def _delta_rule(v: V) -> Tensor:
    """Two steps of the delta rule (Schlag et al. 2021), ``S += beta (value - S k) k^T``, then times the query."""
    k, u, q = (torch.einsum("ij,stj->sti", v[name], v["x"]) for name in ("K", "U", "Q"))
    beta = torch.sigmoid(torch.einsum("j,stj->st", v["w"], v["x"]))
    state = torch.zeros(len(k), u.shape[-1], k.shape[-1], dtype=k.dtype)
    for t in range(2):
        read = torch.einsum("sij,sj->si", state, k[:, t])
        state = state + beta[:, t, None, None] * (u[:, t] - read)[:, :, None] * k[:, t, None, :]
    return torch.einsum("sij,sj->si", state, q[:, 1])


PAPERS: dict[str, Made] = {
    "swiglu": Made(  # Shazeer 2020
        "n=3 h=2 m=2",
        "x:n",
        "W:h,n V:h,n O:m,h",
        ("z[i] = sum[a](O[i,a]*silu(sum[j](W[a,j]*x[j]))*sum[j](V[a,j]*x[j]))",),
        lambda v: (F.silu(v["x"] @ v["W"].T) * (v["x"] @ v["V"].T)) @ v["O"].T,
    ),
    "geglu": Made(  # Shazeer 2020, the approximation that its code uses
        "n=3 m=2",
        "x:n",
        "W:m,n V:m,n b:m",
        ("z[i] = gelu_tanh(sum[j](W[i,j]*x[j]) + b[i])*sum[j](V[i,j]*x[j])",),
        lambda v: F.gelu(_affine(v), approximate="tanh") * (v["x"] @ v["V"].T),
    ),
    "norm_with_gain": Made(  # Ba et al. 2016, after the map
        "n=2 m=3",
        "x:n",
        "W:m,n b:m g0:m",
        (AFFINE, "z[i] = g0[i]*(u[i] - mean[a](u[a]))/sqrt(var[a](u[a]) + 0.001)"),
        lambda v: F.layer_norm(_affine(v), (3,), v["g0"], eps=1e-3),
    ),
    "router": Made(  # Shazeer et al. 2017, soft
        "n=2 m=2 E=2",
        "x:n",
        "G:E,n W:E,m,n",
        ("p[e] = softmax[e](sum[j](G[e,j]*x[j]))", "z[i] = sum[e](p[e]*sum[j](W[e,i,j]*x[j]))"),
        lambda v: torch.einsum("se,eij,sj->si", (v["x"] @ v["G"].T).softmax(-1), v["W"], v["x"]),
    ),
    "grouped_queries": Made(  # Ainslie et al. 2023; Su et al. 2021
        "n=2 T=2",
        "x:T,n c:T,2 d:T,2",
        "Q:4,2,n K:2,2,n U:2,2,n",
        (
            "q0[r,t,h] = sum[j](Q[r,h,j]*x[t,j])",
            "k0[r,t,h] = sum[j](K[r,h,j]*x[t,j])",
            "u[r,t,h] = sum[j](U[r,h,j]*x[t,j])",
            "q[r,t,h] = q0[r,t,h]*c[t,h] + where(h < 1, -1, 1)*q0[r,t,(h + 1) % 2]*d[t,h]",
            "k[r,t,h] = k0[r,t,h]*c[t,h] + where(h < 1, -1, 1)*k0[r,t,(h + 1) % 2]*d[t,h]",
            "A[r:4,t,l] = softmax[l](sum[h](q[r,t,h]*k[r // 2,l,h])/sqrt(2), l <= t)",
            "z[t,i:8] = sum[l](A[i // 2,t,l]*u[i // 4,l,i % 2])",
        ),
        _grouped,
        output="T,8",
    ),
    "cross_entropy": Made(
        "n=2 m=3",
        "x:n y:1<m",
        "W:m,n b:m",
        (AFFINE, "z[i:1] = logsumexp[a](u[a]) - sum[a](delta(a, y[0])*u[a])"),
        lambda v: F.cross_entropy(_affine(v), v["y"].long()[:, 0], reduction="none")[:, None],
        output="1",
    ),
    "dynamic_tanh": Made(  # Zhu et al. 2025
        "n=2 m=2",
        "x:n",
        "W:m,n b:m alpha:1 g0:m",
        (AFFINE, "z[i] = g0[i]*tanh(alpha[0]*u[i])"),
        lambda v: v["g0"] * torch.tanh(v["alpha"] * _affine(v)),
    ),
    "evonorm_s0": Made(  # Liu et al. 2020, one group
        "n=2 m=3",
        "x:n",
        "W:m,n b:m v:m",
        (AFFINE, "z[i] = u[i]*sigmoid(v[i]*u[i])/sqrt(var[a](u[a]) + 0.001)"),
        _evonorm,
    ),
    "delta_rule": Made(
        "n=2 k=2 m=2",
        "x:2,n",
        "K:k,n U:m,n Q:k,n w:n",
        (
            "key[t,a] = sum[j](K[a,j]*x[t,j])",
            "u[t,i] = sum[j](U[i,j]*x[t,j])",
            "beta[t] = sigmoid(sum[j](w[j]*x[t,j]))",
            "S1[i,a] = beta[0]*u[0,i]*key[0,a]",
            "S2[i,a] = S1[i,a] + beta[1]*(u[1,i] - sum[c](S1[i,c]*key[1,c]))*key[1,a]",
            "z[i] = sum[a](S2[i,a]*sum[j](Q[a,j]*x[1,j]))",
        ),
        _delta_rule,
    ),
    "circular": Made(
        "c=2 L=4 o=2 k=3",
        "x:c,L",
        "W:o,c,k",
        ("z[i,p:L] = sum[a,b](W[i,a,b]*x[a,(p + b - 1) % L])",),
        lambda v: F.conv1d(F.pad(v["x"], (1, 1), mode="circular"), v["W"]),
        output="o,L",
    ),
    "radial": Made(  # Broomhead and Lowe 1988
        "n=2 m=2",
        "x:n",
        "C:m,n w:m",
        ("z[i] = exp(-w[i]**2*sum[j]((x[j] - C[i,j])**2))",),
        lambda v: torch.exp(-(v["w"] ** 2) * (v["x"][:, None] - v["C"]).square().sum(-1)),
    ),
    "alibi": Made(  # Press et al. 2021
        "n=2 T=3",
        "x:T,n",
        "Q:2,n K:2,n",
        (
            "S[t,l] = sum[a:2](sum[j](Q[a,j]*x[t,j])*sum[j](K[a,j]*x[l,j]))",
            "z[t,l] = softmax[l](S[t,l]/sqrt(2) - 0.5*(t - l), l <= t)",
        ),
        _alibi,
        output="T,T",
    ),
    "groups": Made(  # Wu and He 2018, after the map: two groups of two
        "n=2 G=2 C=2",
        "x:n",
        "W:G*C,n g0:G*C",
        (
            "u[i] = sum[j](W[i,j]*x[j])",
            "mu[g] = mean[c:C](u[g*C + c])",
            "v[g] = mean[c:C]((u[g*C + c] - mu[g])**2)",
            "z[i] = g0[i]*(u[i] - mu[i // C])/sqrt(v[i // C] + 0.001)",
        ),
        lambda v: F.group_norm(v["x"] @ v["W"].T, 2, v["g0"], eps=1e-3),
        output="G*C",
    ),
    "held": Made(  # a scale that the step holds fixed
        "n=2 m=2",
        "x:n",
        "W:m,n b:m",
        (AFFINE, "z[i] = u[i]/(1 + stop_gradient(norm[a](u[a])))"),
        lambda v: _affine(v) / (1 + _affine(v).norm(dim=-1, keepdim=True).detach()),
    ),
    "pooled": Made(  # replicated edges, largest of two neighbours
        "L=4 k=2",
        "x:L",
        "w:k b:1",
        ("u[p:L] = sum[a](w[a]*x[clip(p + a - 1, 0, L - 1)]) + b[0]", "z[p:2] = max[a:2](u[2*p + a])"),
        lambda v: F.max_pool1d(
            F.conv1d(F.pad(v["x"][:, None], (1, 0), mode="replicate"), v["w"][None, None], v["b"]), 2
        )[:, 0],
        output="2",
    ),
}  # fmt: skip
