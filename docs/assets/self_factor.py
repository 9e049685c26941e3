"""Draw self_factor.svg, the figure of README.md; every point is measured on a layer.

Left: how far one step of gradient descent moves an activation, in multiples of the ideal step, against the length of
the input. Right: the length of the output, for an orthogonal weight and no bias.

    python docs/assets/self_factor.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

import affine_divergence as ad

KINDS = {"Linear": torch.nn.Linear, "AffineLike": ad.AffineLike, "NormLike": ad.NormLike}
COLOURS = {"Linear": "#6b7280", "AffineLike": "#c2185b", "NormLike": "#7a3fb0"}
STYLE = {"svg.hashsalt": "affine-divergence", "svg.fonttype": "path", "font.size": 9.0}


def measured(points: int = 60) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """Return for each layer the lengths of the inputs, the self factors there and the lengths of the outputs."""
    lengths = torch.logspace(-1.3, 1.3, points, dtype=torch.float64)
    x = lengths[:, None] * torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    found = {}
    for name, kind in KINDS.items():
        layer = kind(2, 2, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
            outputs = layer(x).norm(dim=-1)
        found[name] = (lengths.tolist(), ad.self_factor(layer, x).flatten().tolist(), outputs.tolist())
    return found


def draw() -> Figure:
    """Return the figure."""
    figure = Figure(figsize=(7.2, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (lengths, factors, outputs) in measured().items():
        left.plot(lengths, factors, color=COLOURS[name], linewidth=2, label=name)
        right.plot(lengths, outputs, color=COLOURS[name], linewidth=2)
    left.set(xscale="log", yscale="log", xlabel="‖x‖", ylabel="× ideal step", title="What a step does to z")
    right.set(
        xscale="log", yscale="log", xlabel="‖x‖", ylabel="‖z‖, W orthogonal, b = 0", title="What the layer does to x"
    )
    left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Write the figure beside this file."""
    with rc_context(STYLE):
        draw().savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
