"""torch.compile for any module, torch's own containers included.

Dynamo skips the frames of torch's own containers, such as ``nn.Sequential``, so each module is wrapped in one of ours.
"""

from __future__ import annotations

from torch import Tensor, nn


class Whole(nn.Module):
    """A wrapper whose ``forward`` Dynamo does compile, with the wrapped module inlined in it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output of the wrapped module."""
        z: Tensor = self.inner(*inputs)
        return z


def compiled(module: nn.Module, mode: str | None = None) -> nn.Module:
    """Return ``module`` compiled as one graph for static shapes; it shares the parameters of ``module``."""
    whole = Whole(module)
    whole.compile(dynamic=False, mode=mode)
    return whole
