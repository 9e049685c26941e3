"""Benchmark shapes: the sizes, the least work of a step, and the input tensors.

B x n x m                              a linear layer: B rows of n features to m features
B x in x out x length x kernel         a convolution of B square images, padded so that their size stays
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from derive.errors import UsageError

LINEAR, CONVOLUTION = "linear", "convolution"
_ROTATED_BYTES = 256 * 2**20
_MOST_SETS = 16


@dataclass(frozen=True)
class Shape:
    """Sizes of one measurement; ``space`` is the side of an image and ``kernel`` that of a kernel, 1 for rows."""

    batch: int
    inputs: int
    outputs: int
    space: int = 1
    kernel: int = 1
    kind: str = LINEAR

    @property
    def text(self) -> str:
        """The sizes as they are written on the command line."""
        rows = [self.batch, self.inputs, self.outputs]
        return "x".join(map(str, rows if self.kind == LINEAR else [*rows, self.space, self.kernel]))

    @property
    def tiny(self) -> Shape:
        """The least shape of this kind, at which only the cost of a call is left."""
        return Shape(2, 2, 2, self.kernel, self.kernel, self.kind)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The axes of the input."""
        return (self.batch, self.inputs, *self._space)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The axes of the output."""
        return (self.batch, self.outputs, *self._space)

    @property
    def _space(self) -> tuple[int, ...]:
        return () if self.kind == LINEAR else (self.space, self.space)

    def operations(self) -> dict[str, float]:
        """Return the floating-point operations of the products alone: one forward, two backward."""
        one = 2.0 * self.batch * self.inputs * self.outputs * self.space**2 * self.kernel**2
        return {"forward": one, "backward": 2 * one, "both": 3 * one}

    def traffic(self, itemsize: int) -> dict[str, float]:
        """Return the bytes that must move at least: x, W to z, and g, x, W to the gradients with respect to x and W."""
        x = self.batch * self.inputs * self.space**2
        z = self.batch * self.outputs * self.space**2
        weight = self.inputs * self.outputs * self.kernel**2
        forward, backward = float(x + z + weight) * itemsize, float(2 * x + z + 2 * weight) * itemsize
        return {"forward": forward, "backward": backward, "both": forward + backward}


CPU_SHAPES = ("4096x1024x1024", "128x512x512", "32x64x64x32x3")
CUDA_SHAPES = ("8192x4096x4096", "65536x256x256", "128x512x512", "64x64x64x56x3", "64x256x256x28x3")
QUICK_SHAPES = ("64x32x48", "2x4x6x8x3")


def default_shapes(device: str, quick: bool) -> tuple[str, ...]:
    """Return the sizes that are measured when none are named."""
    if quick:
        return QUICK_SHAPES
    return CUDA_SHAPES if device == "cuda" else CPU_SHAPES


def parse_shape(text: str) -> Shape:
    """Return the shape that a text such as ``128x512x512`` names; raise UsageError for another text."""
    words = text.lower().replace(" ", "").split("x")
    sizes = [int(word) if word.isascii() and word.isdigit() else 0 for word in words]
    if len(sizes) not in (3, 5) or min(sizes) < 1:
        raise UsageError(
            f"shape {text!r} is not known; write BATCHxINxOUT for a linear layer, such as 128x512x512, or "
            "BATCHxINxOUTxLENGTHxKERNEL for a convolution, such as 32x64x64x32x3"
        )
    batch, inputs, outputs, *square = sizes
    if not square:
        return Shape(batch, inputs, outputs)
    space, kernel = square
    if kernel % 2 == 0 or kernel > space:
        raise UsageError(f"shape {text!r}: the kernel {kernel} must be odd and at most the length {space}")
    return Shape(batch, inputs, outputs, space, kernel, CONVOLUTION)


@dataclass(frozen=True)
class Feed:
    """An input that takes a gradient, and the gradient with respect to the output that is sent back."""

    x: Tensor
    g: Tensor


def memory_format(shape: Shape, device: str) -> torch.memory_format:
    """Return how tensors of a shape, and the weights that meet them, are laid out on a device."""
    last = device == "cuda" and shape.kind == CONVOLUTION
    return torch.channels_last if last else torch.contiguous_format


def feeds(shape: Shape, device: str, dtype: torch.dtype, seed: int) -> list[Feed]:
    """Return sets of random tensors to take turns with, enough of them that none is still in a cache.

    On a GPU images lie with their channels last, as its convolutions take them.
    """
    return rotated(shape.input_shape, shape.output_shape, device, dtype, seed, memory_format(shape, device))


def rotated(
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    device: str,
    dtype: torch.dtype,
    seed: int,
    layout: torch.memory_format = torch.contiguous_format,
) -> list[Feed]:
    """Return sets of random tensors of the axes of an input and an output, as ``feeds`` does."""
    generator = torch.Generator().manual_seed(seed)
    one = int(torch.Size(inputs).numel() + torch.Size(outputs).numel()) * dtype.itemsize
    count = max(2, min(_MOST_SETS, -(-_ROTATED_BYTES // one)))

    def random(axes: tuple[int, ...]) -> Tensor:
        return torch.randn(axes, generator=generator).to(device=device, dtype=dtype).contiguous(memory_format=layout)

    return [Feed(random(inputs).requires_grad_(), random(outputs)) for _ in range(count)]


def seeded(makes: Sequence[Callable[[], nn.Module]], device: str, dtype: torch.dtype, seed: int) -> list[nn.Module]:
    """Return modules, each made with the same random numbers."""
    made = []
    for make in makes:
        torch.manual_seed(seed)
        made.append(make().to(device=device, dtype=dtype))
    return made


def feeds_of(module: nn.Module, input_shape: tuple[int, ...], device: str, dtype: torch.dtype, seed: int) -> list[Feed]:
    """Return sets of random tensors for a module, whose output says what shape is sent back."""
    with torch.no_grad():
        output = module(torch.zeros(input_shape, device=device, dtype=dtype)).shape
    return rotated(input_shape, tuple(output), device, dtype, seed)
