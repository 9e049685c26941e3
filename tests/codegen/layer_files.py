"""Layer files for the tests, each with a reference of its forward map in PyTorch (``twin``).

A twin takes the inputs, the parameters and the sizes, and returns the uncorrected output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class LayerFile:
    """A TOML text, sizes for the tests, its twin, and whether a sample has only one position."""

    text: str
    sizes: dict[str, int]
    twin: object
    alone: bool = True


def toml(name: str, sizes: str, inputs: str, parameters: str, output: str, *formulas: str, offsets: str = "") -> str:
    """Return a layer file; tensors are written ``"x: n, y: n k"``, an integer input ``"t: p < v"``."""

    def quoted(words: str) -> str:
        return ", ".join(w if w.isdigit() else f'"{w}"' for w in words.split())

    def tensors(listed: str) -> list[str]:
        lines = []
        for item in listed.split(","):
            word, axes = item.split(":")
            axes, _, values = axes.partition("<")
            entry = f"[{quoted(axes)}]"
            lines.append(
                f"{word.strip()} = " + (f'{{ axes = {entry}, values = "{values.strip()}" }}' if values else entry)
            )
        return lines

    lines = [f'name = "{name}"', f"sizes = [{quoted(sizes)}]", *([f"offsets = [{quoted(offsets)}]"] if offsets else [])]
    lines += ["[input]", *tensors(inputs), "[parameters]", *tensors(parameters), "[output]", *tensors(output)]
    if formulas[:-1]:
        lines.append("definitions = [" + ", ".join(f'"{f}"' for f in formulas[:-1]) + "]")
    return "\n".join([*lines, f'formula = "{formulas[-1]}"', ""])


def _strided(x: Tensor, W: Tensor, b: Tensor, sizes: dict[str, int]) -> Tensor:
    padded = functional.pad(x, (0, 2 * sizes["p"] + sizes["k"]))
    return functional.conv1d(padded, W, b, stride=2)[..., : sizes["p"]]


def _padded(x: Tensor, W: Tensor, b: Tensor, sizes: dict[str, int]) -> Tensor:
    return functional.conv2d(x, W, b, padding=sizes["pad"], dilation=2)


def _thrice_padded(x: Tensor, W: Tensor, b: Tensor, sizes: dict[str, int]) -> Tensor:
    return functional.conv2d(x, 3 * W, b, padding=sizes["pad"], dilation=2)


def _tokens(t: Tensor, x: Tensor, E: Tensor, W: Tensor, sizes: dict[str, int]) -> Tensor:
    return E[t] + (x @ W.T)[:, None, :]


AFFINE = toml("scaled_affine", "n m", "x: n", "W: m n, b: m", "z: m", "z[i] = sum[j](W[i, j]*x[j]) + b[i]")

FILES = {
    "scaled_affine": LayerFile(AFFINE, {"n": 4, "m": 3}, lambda x, W, b, sizes: x @ W.T + b),
    "thirds": LayerFile(
        toml("thirds", "n m", "x: n", "W: m n, b: m", "z: m", "z[i] = sum[j](W[i, j]*x[j])/3 + 2*b[i]"),
        {"n": 3, "m": 2},
        lambda x, W, b, sizes: x @ W.T / 3 + 2 * b,
    ),
    "no_bias": LayerFile(
        toml("no_bias", "n m", "x: n", "W: m n", "z: m", "z[i] = sum[j](W[i, j]*tanh(x[j]))"),
        {"n": 3, "m": 2},
        lambda x, W, sizes: torch.tanh(x) @ W.T,
    ),
    "tanh_features": LayerFile(
        toml("tanh_features", "n m", "x: n", "W: m n, b: m", "z: m", "z[i] = sum[j](W[i, j]*tanh(x[j])) + b[i]"),
        {"n": 3, "m": 2},
        lambda x, W, b, sizes: torch.tanh(x) @ W.T + b,
    ),
    "two_inputs": LayerFile(
        toml(
            "two_inputs",
            "n k m",
            "x: n, y: k",
            "A: m n, C: m k, b: m",
            "z: m",
            "z[i] = sum[j](A[i, j]*x[j]) + sum[h](C[i, h]*y[h]**2) + b[i]",
        ),
        {"n": 3, "k": 2, "m": 2},
        lambda x, y, A, C, b, sizes: x @ A.T + y.square() @ C.T + b,
    ),
    "softmaxed": LayerFile(
        toml(
            "softmaxed",
            "n m",
            "x: n",
            "W: m n, b: m",
            "z: m",
            "E = sum[j](exp(x[j]))",
            "u[j] = exp(x[j])/E",
            "z[i] = sum[j](W[i, j]*u[j]) + b[i]",
        ),
        {"n": 3, "m": 2},
        lambda x, W, b, sizes: x.softmax(-1) @ W.T + b,
    ),
    "strided": LayerFile(
        toml(
            "strided",
            "c l o k p",
            "x: c l",
            "W: o c k, b: o",
            "z: o p",
            "z[q, r] = sum[a, h](W[q, a, h]*x[a, 2*r + h]) + b[q]",
        ),
        {"c": 2, "l": 5, "o": 2, "k": 3, "p": 3},
        _strided,
        alone=False,
    ),
    "padded": LayerFile(
        toml(
            "padded",
            "c l w o p q",
            "x: c l w",
            "W: o c 2 3, b: o",
            "z: o p q",
            "z[i, r, t] = sum[a, h, k](W[i, a, h, k]*x[a, r + 2*h - pad, t + 2*k - pad]) + b[i]",
            offsets="pad",
        ),
        {"c": 2, "l": 3, "w": 4, "o": 2, "p": 3, "q": 2, "pad": 1},
        _padded,
        alone=False,
    ),
    "thrice_padded": LayerFile(  # no convolution of the catalogue: every number is gathered
        toml(
            "thrice_padded",
            "c l w o p q",
            "x: c l w",
            "W: o c 2 3, b: o",
            "z: o p q",
            "z[i, r, t] = sum[a, h, k](3*W[i, a, h, k]*x[a, r + 2*h - pad, t + 2*k - pad]) + b[i]",
            offsets="pad",
        ),
        {"c": 2, "l": 3, "w": 4, "o": 2, "p": 3, "q": 2, "pad": 1},
        _thrice_padded,
        alone=False,
    ),
    "tokens": LayerFile(
        toml(
            "tokens",
            "v n p",
            "t: p < v, x: n",
            "E: v n, W: n n",
            "z: p n",
            "z[q, i] = E[t[q], i] + sum[j](W[i, j]*x[j])",
        ),
        {"v": 5, "n": 2, "p": 3},
        _tokens,
        alone=False,
    ),
    "bag": LayerFile(
        toml("bag", "v n p", "t: p < v", "W: v n, b: n", "z: n", "z[i] = sum[q](W[t[q], i]) + b[i]"),
        {"v": 4, "n": 2, "p": 3},
        lambda t, W, b, sizes: W[t].sum(-2) + b,
    ),
    "awkward_names": LayerFile(
        toml(
            "awkward_names",
            "c t_size",
            "torch_: c, dfloat_: t_size",
            "float_: t_size c, g: t_size, len: t_size",
            "list: t_size",
            "list[i] = sum[j](float_[i, j]*torch_[j]) + len[i]*dfloat_[i] + g[i]",
        ),
        {"c": 3, "t_size": 2},
        lambda x, y, W, g, v, sizes: x @ W.T + v * y + g,
    ),
}
