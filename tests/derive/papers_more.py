"""More layers as their papers write them: gates, token mixers, poolings, weights computed from other weights, heads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.derive.papers import AFFINE, _affine
from tests.derive.zoo import Made, U, V

QKV = tuple(f"{low}[t,a] = sum[j]({up}[a,j]*x[t,j])" for low, up in zip("qkv", "QKV", strict=True))
MIXED = "z[t,i] = sum[r](A[t,r]*v[r,i])"
HEADS = {"inputs": "x:T,n", "parameters": "Q:d,n K:d,n V:d,n", "output": "T,d"}


def _linear(v: V) -> Tensor:
    return F.linear(v["x"], v["W"])


def _heads(v: V) -> tuple[Tensor, Tensor, Tensor]:
    q, k, u = (F.linear(v["x"], v[name]) for name in "QKV")
    return q, k, u


def _mixing(scores: str, weigh, sizes: str = "n=2 T=2 d=2", scalars: str = "") -> Made:  # type: ignore[no-untyped-def]
    """A layer that mixes values by weights from queries and keys."""

    def reference(v: V) -> Tensor:
        q, k, u = _heads(v)
        mixed: Tensor = weigh(q, k) @ u
        return mixed

    return Made(sizes, formulas=(*QKV, f"A[t:T,r:T] = {scores}", MIXED), torch=reference, scalars=scalars, **HEADS)


def _distance(q: Tensor) -> Tensor:
    place = torch.arange(q.shape[1])
    return (place[:, None] - place).double()


def _window(q: Tensor, k: Tensor) -> Tensor:
    far = _distance(q)
    return (q @ k.mT / 2**0.5).masked_fill((far < 0) | (far >= 2), -torch.inf).softmax(-1)


def _gau(v: V) -> Tensor:
    shared = F.silu(F.linear(v["x"], v["Z"]))
    q, k = shared * v["g0"] + v["b"], shared * v["h"] + v["c"]
    weights = F.relu(q @ k.mT / 2).square()
    return (F.silu(F.linear(v["x"], v["U"])) * (weights @ F.silu(F.linear(v["x"], v["V"])))) @ v["O"].T


def _hyena(v: V) -> Tensor:
    def short(name: str, taps: str) -> Tensor:
        padded = F.pad(F.linear(v["x"], v[name]).mT, (1, 0))
        return F.conv1d(padded, v[taps].flip(-1)[:, None], groups=2).mT

    q, k, u = short("Q", "a0"), short("K", "b0"), short("V", "c0")
    steps = range(v["x"].shape[1])
    y = [sum(v["h"][:, t - r] * (k * u)[:, r] for r in range(t + 1)) for t in steps]
    return q * torch.stack(y, 1)


def _channel_mix(v: V) -> Tensor:
    before = F.pad(v["x"], (0, 0, 1, 0))[:, :-1]
    k, r = (torch.lerp(before, v["x"], v[mix]) @ v[name].T for mix, name in (("mu", "K"), ("nu", "R")))
    return torch.sigmoid(r) * (F.relu(k).square() @ v["V"].T)


def _token_mix(v: V) -> Tensor:
    k, u, decay = F.linear(v["x"], v["K"]), F.linear(v["x"], v["V"]), v["w"].exp()
    found = []
    for t in range(k.shape[1]):
        weights = [torch.exp((r - t + 1) * decay + k[:, r]) for r in range(t)] + [torch.exp(v["u0"] + k[:, t])]
        shares = torch.stack(weights, 1)
        found.append((shares * u[:, : t + 1]).sum(1) / shares.sum(1))
    return torch.stack(found, 1)


def _squeeze(v: V) -> Tensor:
    gates = torch.sigmoid(F.relu(v["x"].mean(-1) @ v["A"].T) @ v["E"].T)
    return v["x"] * gates[..., None]


def _highway(v: V) -> Tensor:
    gate = torch.sigmoid(F.linear(v["x"], v["T"], v["c"]))
    return torch.tanh(F.linear(v["x"], v["H"], v["b"])) * gate + v["x"] * (1 - gate)


def _mixture(v: V) -> Tensor:
    share, mean, deviation = (F.linear(v["x"], v[name]) for name in ("A", "M", "D"))
    density = torch.distributions.Normal(mean, deviation.exp()).log_prob(v["y"])
    return -(share.log_softmax(-1) + density).logsumexp(-1, keepdim=True)


def _splines(v: V) -> Tensor:
    centres = torch.arange(3, dtype=torch.float64) / 2
    bumps = torch.exp(-(((v["x"][..., None] - centres) / 0.5) ** 2))
    return torch.einsum("ijk,sjk->si", v["C"], bumps) + F.silu(v["x"]) @ v["W"].T


def _rotary(v: V) -> Tensor:
    u, pair = F.linear(v["x"], v["W"]), torch.arange(2, dtype=torch.float64)
    angle = torch.arange(3, dtype=torch.float64)[:, None] * 10000 ** (-2 * pair / 4)
    even, odd, c, d = u[..., 0::2], u[..., 1::2], angle.cos(), angle.sin()
    return torch.stack([even * c - odd * d, even * d + odd * c], -1).flatten(-2)


def _waves(v: V) -> Tensor:
    angle = 2 * math.pi * v["x"] @ v["E"].T
    return torch.cat([angle.cos(), angle.sin()], -1) @ v["W"].T


def _margin(v: V) -> Tensor:
    target = v["y"].long()[:, 0]
    cosine = F.linear(F.normalize(v["x"]), F.normalize(v["W"]))
    return F.cross_entropy(2 * (cosine - 0.3 * F.one_hot(target, 3).double()), target, reduction="none")[:, None]


def _train(v: V) -> Tensor:
    return torch.einsum("apr,rbq,spq->sab", v["G"], v["H"], v["x"].unflatten(-1, (2, 2))).flatten(-2)


MORE: dict[str, Made] = {
    "parametric_relu": Made(  # He et al. 2015
        "n=3 h=3 m=2",
        "x:n",
        "W:h,n a:1 O:m,h",
        ("u[i] = sum[j](W[i,j]*x[j])", "z[i] = sum[k](O[i,k]*where(u[k] > 0, u[k], a[0]*u[k]))"),
        lambda v: F.prelu(_linear(v), v["a"]) @ v["O"].T,
    ),
    "gated_attention_unit": Made(  # Hua et al. 2022
        "n=2 T=2 e=2 d=2",
        "x:T,n",
        "Z:d,n U:e,n V:e,n g0:d b:d h:d c:d O:n,e",
        (
            "y[t,a] = silu(sum[j](Z[a,j]*x[t,j]))",
            "q[t,a] = y[t,a]*g0[a] + b[a]",
            "k[t,a] = y[t,a]*h[a] + c[a]",
            "A[t,r] = relu(sum[a](q[t,a]*k[r,a])/T)**2",
            "v[t,i] = sum[r](A[t,r]*silu(sum[j](V[i,j]*x[r,j])))",
            "z[t,i] = sum[a](O[i,a]*silu(sum[j](U[a,j]*x[t,j]))*v[t,a])",
        ),
        _gau,
        output="T,n",
    ),
    "short_convolutions": Made(  # Poli et al. 2023, Hyena of order two
        "n=2 d=2 T=3 k=2",
        "x:T,n",
        "Q:d,n K:d,n V:d,n a0:d,k b0:d,k c0:d,k h:d,T",
        (
            "q[t:T,i] = sum[l](a0[i,l]*sum[j](Q[i,j]*x[t - l,j]))",
            "y[t:T,i] = sum[l](b0[i,l]*sum[j](K[i,j]*x[t - l,j]))*sum[l](c0[i,l]*sum[j](V[i,j]*x[t - l,j]))",
            "z[t,i] = q[t,i]*sum[r](h[i,t - r]*y[r,i], r <= t)",
        ),
        _hyena,
        output="T,d",
    ),
    "channel_mix": Made(  # Peng et al. 2023, RWKV
        "n=2 T=2 h=2",
        "x:T,n",
        "mu:n nu:n K:h,n R:n,n V:n,h",
        (
            "k[t,a] = sum[j](K[a,j]*(mu[j]*x[t,j] + (1 - mu[j])*x[t - 1,j]))",
            "r[t,i] = sigmoid(sum[j](R[i,j]*(nu[j]*x[t,j] + (1 - nu[j])*x[t - 1,j])))",
            "z[t,i] = r[t,i]*sum[a](V[i,a]*max(k[t,a], 0)**2)",
        ),
        _channel_mix,
        output="T,n",
    ),
    "token_mix": Made(  # Peng et al. 2023, RWKV
        "n=2 T=3 d=2",
        "x:T,n",
        "K:d,n V:d,n w:d u0:d",
        (
            "k[t,i] = sum[j](K[i,j]*x[t,j])",
            "v[t,i] = sum[j](V[i,j]*x[t,j])",
            "e[t:T,r,i] = where(r == t, exp(u0[i] + k[r,i]), where(r < t, exp(-(t - 1 - r)*exp(w[i]) + k[r,i]), 0))",
            "z[t,i] = sum[r](e[t,r,i]*v[r,i])/sum[r](e[t,r,i])",
        ),
        _token_mix,
        output="T,d",
    ),
    "retention": _mixing(  # Sun et al. 2023
        "sum[a](q[t,a]*k[r,a])*where(t >= r, gamma**(t - r), 0)",
        lambda q, k: q @ k.mT * (0.9 ** _distance(q)).tril(),
        scalars="gamma=0.9",
    ),
    "relu_attention": _mixing(  # Wortsman et al. 2023
        "relu(sum[a](q[t,a]*k[r,a])/sqrt(d))/T", lambda q, k: F.relu(q @ k.mT / 2**0.5) / 2
    ),
    "cosine_attention": _mixing(  # Henry et al. 2020, Liu et al. 2022
        "softmax[r](sum[a](q[t,a]*k[r,a])/(norm[a](q[t,a])*norm[a](k[r,a])*tau))",
        lambda q, k: (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT / 0.1).softmax(-1),
        scalars="tau=0.1",
    ),
    "sliding_window": _mixing(  # Beltagy et al. 2020, causal
        "softmax[r](sum[a](q[t,a]*k[r,a])/sqrt(d), r <= t and t - r < 2)", _window, "n=2 T=4 d=2"
    ),
    "local_response": Made(  # Krizhevsky et al. 2012, across units
        "n=2 m=4",
        "x:n",
        "W:m,n",
        (
            U,
            "z[i] = u[i]/(k + alpha/3*sum[a](u[a]**2, max(0, i - 1) <= a <= min(m - 1, i + 1)))**beta",
        ),
        lambda v: F.local_response_norm(_linear(v)[..., None], 3, alpha=0.3, beta=0.75, k=2.0)[..., 0],
        scalars="k=2.0 alpha=0.3 beta=0.75",
    ),
    "squeeze": Made(  # Hu et al. 2018
        "C=3 L=2 r=2",
        "x:C,L",
        "A:r,C E:C,r",
        ("z[c,p] = x[c,p]*sigmoid(sum[a](E[c,a]*relu(sum[d](A[a,d]*mean[q](x[d,q])))))",),
        _squeeze,
        output="C,L",
    ),
    "highway": Made(  # Srivastava et al. 2015
        "n=3",
        "x:n",
        "H:n,n b:n T:n,n c:n",
        (
            "t[i] = sigmoid(sum[j](T[i,j]*x[j]) + c[i])",
            "z[i] = tanh(sum[j](H[i,j]*x[j]) + b[i])*t[i] + x[i]*(1 - t[i])",
        ),
        _highway,
        output="n",
    ),
    "largest_of": Made(  # Goodfellow et al. 2013, maxout
        "n=3 m=2 k=3",
        "x:n",
        "W:m,k,n b:m,k",
        ("z[i] = max[a](sum[j](W[i,a,j]*x[j]) + b[i,a])",),
        lambda v: (torch.einsum("ikj,sj->sik", v["W"], v["x"]) + v["b"]).amax(-1),
    ),
    "tangent_scaled": Made(  # Jacot et al. 2018
        "n=3 m=2",
        "x:n",
        "W:m,n b:m",
        ("z[i] = sigma/sqrt(n)*sum[j](W[i,j]*x[j]) + 0.1*b[i]",),
        lambda v: 1.3 / 3**0.5 * _linear(v) + 0.1 * v["b"],
        scalars="sigma=1.3",
    ),
    "fourier_features": Made(  # Tancik et al. 2020, learned frequencies
        "n=2 f=2 m=2",
        "x:n",
        "E:f,n W:m,2*f",
        ("u[k] = 2*pi*sum[j](E[k,j]*x[j])", "z[i] = sum[k:f](W[i,k]*cos(u[k])) + sum[k:f](W[i,k + f]*sin(u[k]))"),
        _waves,
    ),
    "hypernetwork": Made(  # Ha et al. 2016
        "n=2 m=2 k=2",
        "x:n y:k",
        "H:m,n,k C:m,n",
        ("W[i,j] = sum[a](H[i,j,a]*y[a]) + C[i,j]", "z[i] = sum[j](W[i,j]*x[j])"),
        lambda v: torch.einsum("sij,sj->si", torch.einsum("ijk,sk->sij", v["H"], v["y"]) + v["C"], v["x"]),
    ),
    "tensor_train": Made(  # Novikov et al. 2015
        "r=2",
        "x:4",
        "G:2,2,r H:r,2,2",
        ("z[i] = sum[j,k](G[i // 2,j // 2,k]*H[k,i % 2,j % 2]*x[j])",),
        _train,
        output="4",
    ),
    "mixture_density": Made(  # Bishop 1994
        "n=2 k=2",
        "x:n y:1",
        "A:k,n M:k,n D:k,n",
        (
            "p[i] = softmax[i](sum[j](A[i,j]*x[j]))",
            "mu[i] = sum[j](M[i,j]*x[j])",
            "sd[i] = exp(sum[j](D[i,j]*x[j]))",
            "z[o] = -log(sum[i](p[i]*exp(-(y[0] - mu[i])**2/(2*sd[i]**2))/(sqrt(2*pi)*sd[i])))",
        ),
        _mixture,
        output="1",
    ),
    "splines": Made(  # Liu et al. 2024, KAN, with a radial basis (Li 2024)
        "n=2 m=2 g=3",
        "x:n",
        "C:m,n,g W:m,n",
        ("z[i] = sum[j,k](C[i,j,k]*exp(-((x[j] - k/(g - 1))/0.5)**2)) + sum[j](W[i,j]*silu(x[j]))",),
        _splines,
    ),
    "leaky_residual": Made(
        "n=3",
        "x:n",
        "W:n,n b:n",
        (AFFINE, "z[i] = x[i] + max(u[i], 0.01*u[i])"),
        lambda v: v["x"] + F.leaky_relu(_affine(v)),
        output="n",
    ),
    "pixel_shuffle": Made(  # Shi et al. 2016
        "C=1 H=2 D=1",
        "x:D,H,H",
        "W:4*C,D,3,3",
        (
            "u[o,p:H,q:H] = sum[c,a,b](W[o,c,a,b]*x[c,p + a - 1,q + b - 1])",
            "z[c,p,q] = u[4*c + 2*(p % 2) + q % 2,p // 2,q // 2]",
        ),
        lambda v: F.pixel_shuffle(F.conv2d(v["x"], v["W"], padding=1), 2),
        output="C,2*H,2*H",
    ),
    "dilated": Made(
        "C=2 O=2 K=2",
        "x:C,5",
        "F:O,C,K b:O",
        ("z[o,p] = sum[c,k](F[o,c,k]*x[c,p + 2*k]) + b[o]",),
        lambda v: F.conv1d(v["x"], v["F"], v["b"], dilation=2),
        output="O,3",
    ),
    "running_gate": Made(
        "n=2 T=3",
        "x:T,n",
        "w:n V:n,n",
        ("z[t,i] = sigmoid(cumsum[t](sum[j](w[j]*x[t,j])))*sum[j](V[i,j]*x[t,j])",),
        lambda v: torch.sigmoid((v["x"] @ v["w"]).cumsum(1))[..., None] * (v["x"] @ v["V"].T),
        output="T,n",
    ),
    "soft_pooling": Made(  # Pinheiro and Collobert 2015
        "n=2 T=3 m=2",
        "x:T,n",
        "W:m,n",
        ("z[i] = logsumexp[t](r*sum[j](W[i,j]*x[t,j]))/r - log(T)/r",),
        lambda v: (1.5 * _linear(v)).logsumexp(1) / 1.5 - math.log(3) / 1.5,
        scalars="r=1.5",
    ),
    "mean_of_powers": Made(  # Radenovic et al. 2018, GeM with a learned power
        "n=2 C=2 T=2",
        "x:T,n",
        "W:C,n p:C",
        ("u[c,t] = relu(sum[j](W[c,j]*x[t,j])) + 0.1", "z[c] = mean[t](u[c,t]**p[c])**(1/p[c])"),
        lambda v: ((F.relu(_linear(v)) + 0.1) ** v["p"]).mean(1) ** (1 / v["p"]),
        output="C",
    ),
    "mish": Made(  # Misra 2019
        "n=2 m=2", "x:n", "W:m,n", (U, "z[i] = u[i]*tanh(softplus(u[i]))"), lambda v: F.mish(_linear(v))
    ),
    "rotary": Made(  # Su et al. 2021, neighbours in pairs
        "T=3 n=2",
        "x:T,n",
        "W:4,n",
        (
            "u[t,i] = sum[j](W[i,j]*x[t,j])",
            "th[t:T,i:4] = t*10000**(-2*(i // 2)/4)",
            "z[t,i] = u[t,i]*cos(th[t,i]) + where(i % 2 == 0, -u[t,i + 1], u[t,i - 1])*sin(th[t,i])",
        ),
        _rotary,
        output="T,4",
    ),
    "margin": Made(  # Wang et al. 2018, CosFace
        "n=3 m=3",
        "x:n y:1<m",
        "W:m,n",
        (
            "c[i] = sum[j](W[i,j]*x[j])/(norm[j](W[i,j])*norm[j](x[j]))",
            "l[i] = scale*(c[i] - margin*(i == y[0]))",
            "z[o] = logsumexp[i](l[i]) - l[y[0]]",
        ),
        _margin,
        output="1",
        scalars="scale=2.0 margin=0.3",
    ),
    "power_norm": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n",
        (U, "z[i] = u[i]/(sum[a](abs(u[a])**p)/m + 1e-3)**(1/p)"),
        lambda v: _linear(v) / ((_linear(v).abs() ** 1.3).mean(-1, keepdim=True) + 1e-3) ** (1 / 1.3),
        scalars="p=1.3",
    ),
}
