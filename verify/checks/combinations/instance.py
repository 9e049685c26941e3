"""One instance of a combination: a generated module and the hand-written map, as functions of the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from verify.checks.cases import Laid
from verify.checks.comparison import Named, Side

Layout = Callable[[Tensor], Tensor]
TYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Allowed error of a result, relative to its largest entry: more than a correct package shows over all combinations.
# The bounds of 16-bit dtypes leave room for cancellation, so there only large errors are found.
BOUNDS = {torch.float64: 1e-10, torch.float32: 5e-5, torch.bfloat16: 0.25, torch.float16: 0.03}


@dataclass(frozen=True)
class Instance:
    """A module, its reference, and their values by name: inputs, and parameters under their names in the module.

    ``reference`` takes the values in float64. ``g`` is the gradient with respect to the output; the tensors ``wanted``
    require gradients, the others are frozen. ``ordinary`` says that all results have about the same magnitude;
    ``slack`` multiplies the allowed error where cancellation amplifies rounding.
    """

    module: nn.Module
    call: Callable[..., Tensor]
    inputs: tuple[str, ...]
    values: dict[str, Tensor]
    reference: Side
    g: Tensor
    wanted: tuple[str, ...]
    laid: Layout = lambda tensor: tensor
    ordinary: bool = True
    slack: float = 1.0
    whole: nn.Module = field(init=False)  # the module, called through ``call``

    def __post_init__(self) -> None:
        object.__setattr__(self, "whole", Laid(self.module, self.call))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all operands."""
        return self.g.dtype

    def by_module(self, values: Named) -> Tensor:
        """Return the output of the module for the given values."""
        parameters = {f"inner.{name}": t for name, t in values.items() if name not in self.inputs}
        z = torch.func.functional_call(self.whole, parameters, tuple(values[name] for name in self.inputs))
        assert isinstance(z, Tensor)
        return z

    def exact(self) -> dict[str, Tensor]:
        """Return the values in float64."""
        return {name: t.double() for name, t in self.values.items()}

    def operands(self) -> dict[str, Tensor]:
        """Return the values in the memory layout that the combination prescribes."""
        return {name: self.laid(t) for name, t in self.values.items()}

    def loaded(self) -> nn.Module:
        """Return the module with the values as its parameters."""
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(self.values[name])
        return self.whole
