"""Layers of several parts: residual connections, windows, tokens, normalisers, attention. See ``zoo``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.derive.zoo import Made, U, V

TOKENS = ("q[t,a] = sum[j](Q[a,j]*x[t,j])", "k[t,a] = sum[j](K[a,j]*x[t,j])", "v[t,c] = sum[j](V[c,j]*x[t,j])")
HEADS = {"inputs": "x:T,n", "parameters": "Q:d,n K:d,n V:h,n", "output": "T,h"}


def qkv(v: V) -> tuple[Tensor, Tensor, Tensor]:
    return v["x"] @ v["Q"].T, v["x"] @ v["K"].T, v["x"] @ v["V"].T


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    return weights @ values / weights.sum(-1, keepdim=True)


NETWORKS: dict[str, Made] = {
    "swiglu": Made(
        "n=2 m=2 h=2",
        "x:n",
        "W:h,n V:h,n D:m,h",
        (
            "u[l] = sum[j](W[l,j]*x[j])",
            "y[l] = u[l]*sum[j](V[l,j]*x[j])/(1 + exp(-u[l]))",
            "z[i] = sum[l](D[i,l]*y[l])",
        ),
        lambda v: (F.silu(v["x"] @ v["W"].T) * (v["x"] @ v["V"].T)) @ v["D"].T,
    ),
    "residual": Made(
        "n=3", "x:n", "W:n,n", ("z[i] = x[i] + sum[j](W[i,j]*x[j])",), lambda v: v["x"] + v["x"] @ v["W"].T, "n"
    ),
    "gated_residual": Made(
        "n=3",
        "x:n",
        "W:n,n a:1",
        ("z[i] = x[i] + a[0]*sum[j](W[i,j]*x[j])",),
        lambda v: v["x"] + v["a"] * (v["x"] @ v["W"].T),
        "n",
    ),
    "strided": Made(
        "L=6 k=2 P=3",
        "x:L",
        "w:k",
        ("z[p] = sum[l](w[l]*x[2*p + l])",),
        lambda v: F.conv1d(v["x"][:, None], v["w"][None, None], stride=2)[:, 0],
        "P",
    ),
    "causal": Made(
        "L=5 k=2",
        "x:L",
        "w:k b:1",
        ("z[p] = sum[l](w[l]*x[p - 2*l]) + b[0]",),
        lambda v: F.conv1d(F.pad(v["x"][:, None], (2, 0)), v["w"].flip(0)[None, None], v["b"], dilation=2)[:, 0],
        "L",
    ),
    "depthwise": Made(
        "C=2 L=4 k=2 P=3",
        "x:C,L",
        "w:C,k",
        ("z[c,p] = sum[l](w[c,l]*x[c,p + l])",),
        lambda v: F.conv1d(v["x"], v["w"][:, None], groups=2),
        "C,P",
    ),
    "locally_connected": Made(
        "C=2 L=4 k=2 P=3 O=2",
        "x:C,L",
        "W:P,O,C,k",
        ("z[o,p] = sum[c,l](W[p,o,c,l]*x[c,p + l])",),
        lambda v: torch.einsum("pock,scpk->sop", v["W"], v["x"].unfold(2, 2, 1)),
        "O,P",
    ),
    "image": Made(
        "C=2 L=3 k=2 P=2 O=2",
        "x:C,L,L",
        "W:O,C,k,k b:O",
        ("z[o,p,q] = sum[c,h,w](W[o,c,h,w]*x[c,p + h,q + w]) + b[o]",),
        lambda v: F.conv2d(v["x"], v["W"], v["b"]),
        "O,P,P",
    ),
    "pooled": Made(
        "T=3 n=2 m=2", "x:T,n", "W:m,n", ("z[i] = sum[t,j](W[i,j]*x[t,j])/T",), lambda v: v["x"].mean(1) @ v["W"].T
    ),
    "hankel": Made(
        "n=3 m=2 k=4", "x:n", "w:k", ("z[p] = sum[l](w[p + l]*x[l])",), lambda v: v["x"] @ v["w"].unfold(0, 3, 1).T
    ),
    "positions": Made(
        "T=3 n=2 v=4",
        "t:T<v",
        "W:v,n P:T,n",
        ("z[p,i] = W[t[p],i] + P[p,i]",),
        lambda v: v["W"][v["t"]] + v["P"],
        "T,n",
    ),
    "mean_bag": Made(
        "T=3 n=2 v=3", "t:T<v", "W:v,n", ("z[i] = sum[p](W[t[p],i])/T",), lambda v: v["W"][v["t"]].mean(1), "n"
    ),
    "tied": Made(
        "n=3 k=2",
        "x:n",
        "W:k,n",
        ("a[l] = sum[j](W[l,j]*x[j])", "z[i] = sum[l](W[l,i]*a[l])"),
        lambda v: v["x"] @ v["W"].T @ v["W"],
        "n",
    ),
    "two_inputs": Made(
        "n=3 m=2",
        "x:n y:n",
        "W:m,n",
        ("z[i] = sum[j](W[i,j]*(x[j] + 2*y[j]))",),
        lambda v: (v["x"] + 2 * v["y"]) @ v["W"].T,
    ),
    "power": Made(
        "n=2", "x:n", "W:n,n", ("z[i] = sum[j,k](W[i,j]*W[j,k]*x[k])",), lambda v: v["x"] @ v["W"].T @ v["W"].T, "n"
    ),
    "layer_norm": Made(
        "n=3",
        "x:n",
        "g:n b:n",
        ("c[j] = x[j] - sum[k](x[k])/n", "z[i] = g[i]*c[i]/sqrt(sum[j](c[j]**2)/n) + b[i]"),
        lambda v: F.layer_norm(v["x"], (3,), v["g"], v["b"], eps=0.0),
        "n",
    ),
    "norm_after": Made(
        "n=3 m=3",
        "x:n",
        "W:m,n g:m",
        (U, "z[i] = g[i]*u[i]/sqrt(sum[l](u[l]**2)/m)"),
        lambda v: F.rms_norm(v["x"] @ v["W"].T, (3,), v["g"], eps=0.0),
    ),
    "group_norm": Made(
        "G=2 c=2",
        "x:G,c",
        "g:G,c",
        ("q[a] = sum[k](x[a,k]**2)/c", "z[a,i] = g[a,i]*x[a,i]/sqrt(q[a])"),
        lambda v: v["g"] * F.rms_norm(v["x"], (2,), eps=0.0),
        "G,c",
    ),
    "two_layers": Made(
        "n=2 h=2 m=2",
        "x:n",
        "W:h,n b:h V:m,h",
        ("u[l] = tanh(sum[j](W[l,j]*x[j]) + b[l])", "z[i] = sum[l](V[i,l]*u[l])"),
        lambda v: F.linear(v["x"], v["W"], v["b"]).tanh() @ v["V"].T,
    ),
    "recurrent": Made(
        "n=2 h=2",
        "x:n y:n",
        "W:h,n R:h,h",
        ("a[i] = tanh(sum[j](W[i,j]*x[j]))", "z[i] = tanh(sum[j](W[i,j]*y[j]) + sum[l](R[i,l]*a[l]))"),
        lambda v: (v["y"] @ v["W"].T + (v["x"] @ v["W"].T).tanh() @ v["R"].T).tanh(),
        "h",
    ),
    "factorisation": Made(
        "n=3 k=2",
        "x:n",
        "V:n,k b:1",
        ("z[i] = b[0] + sum[j,l,a](V[j,a]*V[l,a]*x[j]*x[l])",),
        lambda v: ((v["x"] @ v["V"]) ** 2).sum(-1, keepdim=True) + v["b"],
        "1",
    ),
    "quadratic": Made(
        "n=2 m=2",
        "x:n",
        "A:m,n,n b:m,n",
        ("z[i] = sum[j,l](A[i,j,l]*x[j]*x[l]) + sum[j](b[i,j]*x[j])",),
        lambda v: torch.einsum("ijl,sj,sl->si", v["A"], v["x"], v["x"]) + v["x"] @ v["b"].T,
    ),
    "experts": Made(
        "n=2 m=2 e=2",
        "x:n",
        "G:e,n W:e,m,n",
        ("g[a] = exp(sum[j](G[a,j]*x[j]))", "z[i] = sum[a,j](g[a]*W[a,i,j]*x[j])/sum[a](g[a])"),
        lambda v: torch.einsum("se,eij,sj->si", (v["x"] @ v["G"].T).softmax(-1), v["W"], v["x"]),
    ),
    "modulated": Made(
        "n=2 m=2",
        "x:n",
        "W:m,n a:m c:n",
        ("z[i] = sum[j](W[i,j]*(1 + a[i]*c[j])*x[j])",),
        lambda v: v["x"] @ (v["W"] * (1 + v["a"][:, None] * v["c"])).T,
    ),
    "log_sum_exp": Made(
        "n=2 m=2 e=2",
        "x:n",
        "W:m,e,n",
        ("z[i] = log(sum[a](exp(sum[j](W[i,a,j]*x[j]))))",),
        lambda v: torch.einsum("iaj,sj->sia", v["W"], v["x"]).logsumexp(-1),
    ),
    "cross": Made(
        "n=3",
        "x:n y:n",
        "w:n b:n",
        ("z[i] = y[i]*sum[j](w[j]*x[j]) + b[i] + x[i]",),
        lambda v: v["y"] * (v["x"] @ v["w"])[:, None] + v["b"] + v["x"],
        "n",
    ),
    "film": Made(
        "n=2 k=2",
        "x:n y:k",
        "G:n,k H:n,k",
        ("z[i] = x[i]*sum[l](G[i,l]*y[l]) + sum[l](H[i,l]*y[l])",),
        lambda v: v["x"] * (v["y"] @ v["G"].T) + v["y"] @ v["H"].T,
        "n",
    ),
    "linear_attention": Made(
        "T=2 n=2 d=2 h=2",
        formulas=(*TOKENS, "z[t,c] = sum[r,a](q[t,a]*k[r,a]*v[r,c])"),
        torch=lambda v: qkv(v)[0] @ (qkv(v)[1].mT @ qkv(v)[2]),
        **HEADS,
    ),
    "softmax_attention": Made(
        "T=2 n=2 d=2 h=2",
        formulas=(
            *TOKENS,
            "e[t,r] = exp(sum[a](q[t,a]*k[r,a])/sqrt(d))",
            "D[t] = sum[r](e[t,r])",
            "z[t,c] = sum[r](e[t,r]*v[r,c])/D[t]",
        ),
        torch=lambda v: F.scaled_dot_product_attention(*qkv(v)),
        **HEADS,
    ),
    "normalised_attention": Made(
        "T=2 n=2 d=2 h=2",
        formulas=(
            *TOKENS,
            "e[t,r] = sum[a](q[t,a]**2*k[r,a]**2)",
            "D[t] = sum[r](e[t,r])",
            "z[t,c] = sum[r](e[t,r]*v[r,c])/D[t]",
        ),
        torch=lambda v: weighted(qkv(v)[0] ** 2 @ (qkv(v)[1] ** 2).mT, qkv(v)[2]),
        **HEADS,
    ),
}
