"""Benchmark shapes: sizes, minimum work of a step, and input tensors.

B x n x m                              a linear layer: B rows of n features to m features
B x in x out x length x kernel         a convolution of B square images, padded to preserve their size
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
    """Sizes of one measurement; ``space`` is the side of an image, ``kernel`` that of a filter; both 1 for rows."""

    batch: int
    inputs: int
    outputs: int
    space: int = 1
    kernel: int = 1
    kind: str = LINEAR

    @property
    def text(self) -> str:
        """The sizes in the form that the command line takes."""
        rows = [self.batch, self.inputs, self.outputs]
        return "x".join(map(str, rows if self.kind == LINEAR else [*rows, self.space, self.kernel]))

    @property
    def tiny(self) -> Shape:
        """The smallest shape of this kind, where only call overhead remains."""
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
        """Return the floating-point operations of the matrix products: one forward, two backward."""
        one = 2.0 * self.batch * self.inputs * self.outputs * self.space**2 * self.kernel**2
        return {"forward": one, "backward": 2 * one, "both": 3 * one}

    def traffic(self, itemsize: int) -> dict[str, float]:
        """Return the minimum bytes moved: read x, W and write z; read g, x, W and write the gradients of x and W."""
        x = self.batch * self.inputs * self.space**2
        z = self.batch * self.outputs * self.space**2
        weight = self.inputs * self.outputs * self.kernel**2
        forward, backward = float(x + z + weight) * itemsize, float(2 * x + z + 2 * weight) * itemsize
        return {"forward": forward, "backward": backward, "both": forward + backward}


CPU_SHAPES = ("4096x1024x1024", "128x512x512", "32x64x64x32x3")
CUDA_SHAPES = ("8192x4096x4096", "65536x256x256", "128x512x512", "64x64x64x56x3", "64x256x256x28x3")
QUICK_SHAPES = ("64x32x48", "2x4x6x8x3")


def default_shapes(device: str, quick: bool) -> tuple[str, ...]:
    """Return the shapes measured by default."""
    if quick:
        return QUICK_SHAPES
    return CUDA_SHAPES if device == "cuda" else CPU_SHAPES


def parse_shape(text: str) -> Shape:
    """Return the shape that a text such as ``128x512x512`` describes; raise UsageError for text of another form."""
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
        raise UsageError(f"shape {text!r}: the kernel size {kernel} must be odd and at most the image length {space}")
    return Shape(batch, inputs, outputs, space, kernel, CONVOLUTION)


@dataclass(frozen=True)
class Feed:
    """An input that requires a gradient, and the gradient of the output to backpropagate."""

    x: Tensor
    g: Tensor


def memory_format(shape: Shape, device: str) -> torch.memory_format:
    """Return the memory format of inputs and weights of a shape on a device."""
    last = device == "cuda" and shape.kind == CONVOLUTION
    return torch.channels_last if last else torch.contiguous_format


def feeds(shape: Shape, device: str, dtype: torch.dtype, seed: int) -> list[Feed]:
    """Return sets of random tensors to rotate through, so many that none is still in a cache when its turn comes.

    On a GPU images are channels-last, the layout that its convolutions use.
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
    """Return rotating sets of random tensors for an input and an output of the given axes, as ``feeds`` does."""
    generator = torch.Generator().manual_seed(seed)
    one = int(torch.Size(inputs).numel() + torch.Size(outputs).numel()) * dtype.itemsize
    count = max(2, min(_MOST_SETS, -(-_ROTATED_BYTES // one)))

    def random(axes: tuple[int, ...]) -> Tensor:
        return torch.randn(axes, generator=generator).to(device=device, dtype=dtype).contiguous(memory_format=layout)

    return [Feed(random(inputs).requires_grad_(), random(outputs)) for _ in range(count)]


def seeded(makes: Sequence[Callable[[], nn.Module]], device: str, dtype: torch.dtype, seed: int) -> list[nn.Module]:
    """Return the modules, each built from the same random seed."""
    made = []
    for make in makes:
        torch.manual_seed(seed)
        made.append(make().to(device=device, dtype=dtype))
    return made


def feeds_of(module: nn.Module, input_shape: tuple[int, ...], device: str, dtype: torch.dtype, seed: int) -> list[Feed]:
    """Return rotating sets of random tensors for a module; its output determines the shape of the gradient."""
    with torch.no_grad():
        output = module(torch.zeros(input_shape, device=device, dtype=dtype)).shape
    return rotated(input_shape, tuple(output), device, dtype, seed)
