"""Take a layer of your own from PyTorch code to a corrected layer with kernels in C++, Triton and CUDA.

    python examples/own_layer_to_cuda.py [--out FOLDER]

No GPU is needed: the script writes and shows the CUDA source, and runs the layer on the CPU or GPU that it finds.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import codegen
import derive
from codegen.compiler import build_layer
from codegen.package import write


class Shared(nn.Module):
    """A layer of no library: one weight for both halves of the input, (batch, 2, n) -> (batch, m)."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(m, n)), nn.Parameter(torch.zeros(m))

    def forward(self, x: Tensor) -> Tensor:
        """Return W (x_0 - x_1 / 2) + b."""
        return (x[:, 0] - 0.5 * x[:, 1]) @ self.weight.T + self.bias


def shared(n: int, m: int) -> tuple[nn.Module, Tensor]:
    """Return the module for two sizes, and an example input: the factory that capture calls."""
    return Shared(n, m), torch.randn(5, 2, n)


def one_step(layer: nn.Module, x: Tensor) -> Tensor:
    """Return how far one step of gradient descent moves each sample alone, in multiples of the ideal step."""
    found = []
    for sample in x.split(1):
        state = {name: value.clone() for name, value in layer.state_dict().items()}
        z = layer(sample)
        g = torch.randn_like(z)
        gradients = torch.autograd.grad(z, list(layer.parameters()), g)
        with torch.no_grad():
            for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
            found.append(((layer(sample) - z) / (-0.1 * g)).mean())
        layer.load_state_dict(state)
    return torch.stack(found)


def main() -> None:
    """Capture, derive, solve, generate, and take a step on both layers."""
    parser = argparse.ArgumentParser(description="From PyTorch code to CUDA.")
    parser.add_argument("--out", type=Path, help="where the package goes; a temporary folder if not given")
    parser.add_argument("--quick", action="store_true", help="the same; it takes seconds anyway")
    folder = parser.parse_args().out or Path(tempfile.mkdtemp())

    layer = codegen.capture(shared)  # translated, then compared with the module in values and derivatives
    update = derive.effective_update(layer).check()
    print("self factor:", update.to_json()["self_factor"]["text"])
    print("steps:", *sorted({step.verdict.status.value for step in update.steps}))
    for found in derive.solve(layer):
        print(f"cancelled by: {found.name} ({found.kind})")

    texts = build_layer(layer, "shared_layers", targets=("torch", "cpp", "triton", "cuda"))
    write(texts, folder / "shared_layers")
    sys.path.insert(0, str(folder))
    package = importlib.import_module("shared_layers")
    sources = sorted(name for name in texts if name.endswith(".cu"))
    print("CUDA sources:", *sources)
    print(*[line.strip() for line in texts[sources[0]].splitlines() if "/backward" in line][:1])

    x = torch.randn(4, 2, 6, dtype=torch.float64) * torch.tensor([0.1, 1, 3, 10])[:, None, None]
    corrected = next(getattr(package, name) for name in package.__all__ if name.endswith("AffineLike"))
    for kind in (Shared, corrected):
        moved = one_step(kind(6, 3).double(), x)
        print(f"{kind.__name__}: {', '.join(f'{v:.2f}' for v in moved.tolist())} times the ideal step")


if __name__ == "__main__":
    main()
