"""The evidence that rules read: the model's data, and each layer's input, gradient and step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from verify.diagnosis.activity import Activity
from verify.diagnosis.capture import Call
from verify.diagnosis.record import LayerDiagnosis
from verify.diagnosis.samples import Shape
from verify.diagnosis.sums import squared


@dataclass(frozen=True)
class LayerEvidence:
    """One layer at the first step.

    Attributes:
        calls: its calls, with inputs and gradients at its outputs.
        fall: the expected decrease of the loss by its parameters' step: -<gradient, step>.
        relative_step: norm of its parameters' step over that of the parameters.
        relative_gradient: norm of its parameters' gradient over that of the parameters.
        gain: norm of its weight over the square root of its number of units: the typical growth of the input's norm;
            None for embedding tables.
    """

    name: str
    shape: Shape
    calls: Sequence[Call]
    fall: float
    relative_step: float
    relative_gradient: float
    gain: float | None = None

    @cached_property
    def mean_square(self) -> float | None:
        """Mean square of its input entries; None for tokens."""
        reads = [call.x for call in self.calls if call.x.is_floating_point() and call.x.numel()]
        if not reads:
            return None
        return sum(squared(x) / x.numel() for x in reads) / len(reads)

    @property
    def alike(self) -> str:
        """The name without its numbers, which is the same for all layers of a stack."""
        return re.sub(r"\d+", "#", self.name)


@dataclass(frozen=True)
class Evidence:
    """The evidence of one step.

    Attributes:
        inputs: the model's input tensors, by name.
        layers: the layers in the order of their calls.
        judged: the diagnosis of the same layers.
        activity: what happened between the layers.
        loss, loss_after: the loss before and after the first step, with the same random numbers; None without a step.
    """

    inputs: Mapping[str, Tensor]
    layers: Sequence[LayerEvidence]
    judged: Sequence[LayerDiagnosis]
    activity: Activity
    loss: float
    loss_after: float | None = None
    rate: float = 0.0
    optimizer: str = "SGD"
    shares: Mapping[str, float] = field(default_factory=dict)

    def share(self, name: str | None) -> float:
        """Return a layer's share in the expected decrease of the loss."""
        total = sum(abs(layer.fall) for layer in self.layers)
        own = sum(abs(layer.fall) for layer in self.layers if layer.name == name)
        return own / total if total > 0 else 0.0

    def reader(self, tensor: Tensor) -> LayerEvidence | None:
        """Return the first layer whose input is the given tensor of the batch."""
        for layer in self.layers:
            for call in layer.calls:
                if call.x.shape == tensor.shape and call.x.data_ptr() == tensor.data_ptr():
                    return layer
        same = (m for m in self.layers if any(c.x.numel() == tensor.numel() for c in m.calls))
        return next(
            (m for m in same if torch.equal(m.calls[0].x.reshape(-1), tensor.reshape(-1).to(m.calls[0].x))), None
        )
