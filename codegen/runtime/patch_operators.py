"""Convolutions' passes as operators: a geometry is a list of integers, a value that is not kept an empty tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .far_images import gradients_beside_far
from .operators import Passes
from .patch_places import as_geometry
from .rows import FarError, with_far_images


class PatchSignature(NamedTuple):
    """The names of the tensors that a map of patches takes, and of those that its backward pass reads."""

    tensors: Sequence[str]
    saved: Sequence[str]

    @property
    def forward(self) -> str:
        """The schema of the forward pass."""
        tensors = ", ".join(f"Tensor {name}_" for name in self.tensors)
        return f"({tensors}, float kappa, int[] numbers, bool recompute) -> (Tensor, Tensor, Tensor)"

    @property
    def backward(self) -> str:
        """The schema of the backward pass."""
        tensors = ", ".join(f"Tensor {name}_" for name in ("g", *self.saved))
        given = f"{tensors}, Tensor scale, Tensor? kept, float kappa, int[] numbers, bool[] wanted"
        return f"({given}) -> ({', '.join(['Tensor'] * len(self.tensors))})"


class PatchPasses(Passes):
    """The passes of a map of patches: see ``Passes``.

    ``forward`` takes the tensors, kappa, the integers of the geometry and whether to recompute, and returns the output,
    the scale and the kept value, empty if it will be recomputed. ``backward`` takes the gradient, the tensors that it
    reads, the scale, the kept value or None, kappa, the integers, and which gradients are wanted.
    """

    def __init__(self, function: Any, plain: Any, count: int, saved: Sequence[int] | None = None) -> None:
        super().__init__(function, plain, count, 2, saved)

    def results(self, *given: Any) -> Sequence[Any]:
        """Return the output, the scale, and the kept value."""
        *tensors, kappa, numbers, recompute = given
        settings = kappa, as_geometry(numbers), recompute
        try:
            z, f, kept = self._function.forward(*tensors, *settings)
        except FarError:
            z, f, kept = with_far_images(lambda *given: self._function.forward(*given, *settings), *tensors)
        return z, f, z.new_empty(0) if kept is None else kept

    def differentiated(
        self, g: Tensor, tensors: Sequence[Any], kept: Sequence[Any], settings: Sequence[Any], wanted: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """Return the gradients as the function gives them, with None for settings."""
        kappa, numbers = settings
        context = self.context(g, tensors, kept, (kappa, as_geometry(numbers), kept[1] is None), wanted)
        apart = gradients_beside_far(self._function.backward, context, context.saved_tensors, g)
        found: Sequence[Tensor | None]
        found = self._function.backward(context, g, None, None) if apart is None else apart
        return found

    def backward_arguments(self, given: Sequence[Any], results: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return the backward pass's arguments between the gradient and the wanted flags."""
        kappa, numbers, recompute = given[self.count :]
        return *(given[k] for k in self.saved), results[1], None if recompute else results[2], kappa, numbers
