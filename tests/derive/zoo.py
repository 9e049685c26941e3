"""Layers of every kind as text, each with the same map in PyTorch, to cover the language of layer files widely.

A row has sizes, inputs, parameters, intermediates, formula, and the map itself; every input and the output have the
batch axis in front. Sizes are given as numbers: ``n=3 m=2``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

V = Mapping[str, Tensor]


@dataclass(frozen=True)
class Made:
    """A layer: the sizes of the comparison, its declarations, and the same map in PyTorch."""

    sizes: str
    inputs: str
    parameters: str
    formulas: tuple[str, ...]
    torch: Callable[[V], Tensor]
    output: str = "m"
    scalars: str = ""

    @property
    def settings(self) -> dict[str, float]:
        """The scalars by name."""
        return {name: float(value) for name, value in (pair.split("=") for pair in self.scalars.split())}

    @property
    def numbers(self) -> dict[str, int]:
        """The sizes by name."""
        return {name: int(size) for name, size in (pair.split("=") for pair in self.sizes.split())}

    def text(self, name: str) -> str:
        """The layer file."""

        def declared(part: str) -> str:
            return "\n".join(f"{t.split(':')[0]} = {axes(t.split(':')[1])}" for t in part.split())

        def axes(listed: str) -> str:
            names = ", ".join(a if a.isdigit() else f'"{a}"' for a in listed.split(","))
            token, _, top = names.partition("<")
            return f'{{ axes = [{token}"], values = "{top}}}' if top else f"[{names}]"

        *before, last = self.formulas
        return "\n".join(
            (
                f'name = "{name}"',
                f"sizes = {[*self.numbers]}".replace("'", '"'),
                f"scalars = {[*self.settings]}".replace("'", '"'),
                "[input]",
                declared(self.inputs),
                "[parameters]",
                declared(self.parameters),
                "[output]",
                f"z = {axes(self.output)}",
                f"definitions = {before}".replace("'", '"'),
                f'formula = "{last}"',
            )
        )


U = "u[i] = sum[j](W[i,j]*x[j])"
UB = "u[i] = sum[j](W[i,j]*x[j]) + b[i]"


def outer(*factors: Tensor) -> Tensor:
    letters = "jkl"[: len(factors)]
    return torch.einsum(",".join(f"s{a}" for a in letters) + "->s" + letters, *factors)


ZOO: dict[str, Made] = {
    "scaled": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n b:m",
        ("z[i] = 2*sum[j](W[i,j]*x[j]) + b[i]/3",),
        lambda v: 2 * v["x"] @ v["W"].T + v["b"] / 3,
    ),
    "centred": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n",
        ("z[i] = sum[j](W[i,j]*(x[j] - sum[k](x[k])/n))",),
        lambda v: (v["x"] - v["x"].mean(-1, keepdim=True)) @ v["W"].T,
    ),
    "unit": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n",
        ("z[i] = sum[j](W[i,j]*x[j])/sqrt(sum[j](x[j]**2))",),
        lambda v: F.normalize(v["x"], dim=-1) @ v["W"].T,
    ),
    "of_softmax": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n",
        ("e = sum[j](exp(x[j]))", "z[i] = sum[j](W[i,j]*exp(x[j]))/e"),
        lambda v: v["x"].softmax(-1) @ v["W"].T,
    ),
    "cubes": Made("n=3 m=2", "x:n", "W:m,n", ("z[i] = sum[j](W[i,j]*x[j]**3)",), lambda v: v["x"] ** 3 @ v["W"].T),
    "polynomial": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n V:m,n b:m",
        ("z[i] = sum[j](W[i,j]*x[j] + V[i,j]*x[j]**2) + b[i]",),
        lambda v: v["x"] @ v["W"].T + v["x"] ** 2 @ v["V"].T + v["b"],
    ),
    "bilinear": Made(
        "n=2 k=3 m=2",
        "x:n y:k",
        "W:m,n,k",
        ("z[i] = sum[j,l](W[i,j,l]*x[j]*y[l])",),
        lambda v: torch.einsum("ijl,sj,sl->si", v["W"], v["x"], v["y"]),
    ),
    "trilinear": Made(
        "n=2 m=2",
        "x:n",
        "W:m,n,n,n",
        ("z[i] = sum[a,b,c](W[i,a,b,c]*x[a]*x[b]*x[c])",),
        lambda v: torch.einsum("iabc,sabc->si", v["W"], outer(v["x"], v["x"], v["x"])),
    ),
    "low_rank": Made(
        "n=3 m=2 r=2",
        "x:n",
        "A:r,n U:m,r b:m",
        ("a[l] = sum[j](A[l,j]*x[j])", "z[i] = sum[l](U[i,l]*a[l]) + b[i]"),
        lambda v: v["x"] @ v["A"].T @ v["U"].T + v["b"],
    ),
    "three_factors": Made(
        "n=3 m=2 r=2",
        "x:n",
        "A:r,n C:r,r U:m,r",
        ("z[i] = sum[l,k,j](U[i,l]*C[l,k]*A[k,j]*x[j])",),
        lambda v: v["x"] @ v["A"].T @ v["C"].T @ v["U"].T,
    ),
    "sigmoid": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n b:m",
        (UB, "z[i] = 1/(1 + exp(-u[i]))"),
        lambda v: F.linear(v["x"], v["W"], v["b"]).sigmoid(),
    ),
    "squashed": Made(
        "n=3 m=2", "x:n", "W:m,n b:m", (UB, "z[i] = tanh(u[i])"), lambda v: F.linear(v["x"], v["W"], v["b"]).tanh()
    ),
    "softplus": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n",
        (U, "z[i] = log(1 + exp(u[i]))"),
        lambda v: F.softplus(v["x"] @ v["W"].T, threshold=100),
    ),
    "swish": Made("n=3 m=2", "x:n", "W:m,n", (U, "z[i] = u[i]/(1 + exp(-u[i]))"), lambda v: F.silu(v["x"] @ v["W"].T)),
    "relu": Made(
        "n=3 m=2", "x:n", "W:m,n b:m", (UB, "z[i] = max(u[i], 0)"), lambda v: F.linear(v["x"], v["W"], v["b"]).relu()
    ),
    "leaky": Made(
        "n=3 m=2", "x:n", "W:m,n", (U, "z[i] = max(u[i], 0.1*u[i])"), lambda v: F.leaky_relu(v["x"] @ v["W"].T, 0.1)
    ),
    "squared_relu": Made(
        "n=3 m=2", "x:n", "W:m,n", (U, "z[i] = max(u[i], 0)**2"), lambda v: (v["x"] @ v["W"].T).relu() ** 2
    ),
    "maxout": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n V:m,n",
        (U, "z[i] = max(u[i], sum[j](V[i,j]*x[j]))"),
        lambda v: torch.maximum(v["x"] @ v["W"].T, v["x"] @ v["V"].T),
    ),
    "absolute": Made("n=3 m=2", "x:n", "W:m,n", (U, "z[i] = abs(u[i])"), lambda v: (v["x"] @ v["W"].T).abs()),
    "sine": Made("n=3 m=2", "x:n", "W:m,n", (U, "z[i] = sin(3*u[i])"), lambda v: (3 * v["x"] @ v["W"].T).sin()),
    "fourier": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n b:m",
        (UB, "z[i] = sqrt(2)*cos(u[i])"),
        lambda v: 2**0.5 * F.linear(v["x"], v["W"], v["b"]).cos(),
    ),
    "radial": Made(
        "n=3 m=2",
        "x:n",
        "C:m,n",
        ("z[i] = exp(-sum[j]((x[j] - C[i,j])**2)/2)",),
        lambda v: (-(torch.cdist(v["x"], v["C"]) ** 2) / 2).exp(),
    ),
    "distance": Made(
        "n=3 m=2",
        "x:n",
        "C:m,n",
        ("z[i] = sum[j](abs(x[j] - C[i,j]))",),
        lambda v: (v["x"][:, None] - v["C"]).abs().sum(-1),
    ),
    "weight_norm": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n g:m",
        ("z[i] = g[i]*sum[j](W[i,j]*x[j])/sqrt(sum[j](W[i,j]**2))",),
        lambda v: v["x"] @ (v["g"][:, None] * F.normalize(v["W"], dim=-1)).T,
    ),
    "weight_standard": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n",
        ("a[i] = sum[j](W[i,j])/n", "c[i,j] = W[i,j] - a[i]", "z[i] = sum[j](c[i,j]*x[j])/sqrt(sum[j](c[i,j]**2)/n)"),
        lambda v: v["x"] @ F.layer_norm(v["W"], v["W"].shape[-1:], eps=0.0).T,
    ),
    "gated_bilinear": Made(
        "n=3 m=2",
        "x:n",
        "W:m,n V:m,n",
        ("z[i] = sum[j](W[i,j]*x[j])*sum[j](V[i,j]*x[j])",),
        lambda v: (v["x"] @ v["W"].T) * (v["x"] @ v["V"].T),
    ),
}
