"""torch.compile for any module: Dynamo compiles no frame of torch's own containers, such as ``nn.Sequential``."""

from __future__ import annotations

from torch import Tensor, nn


class Whole(nn.Module):
    """A module inside one whose frame Dynamo compiles, the module's own included."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the module returns."""
        z: Tensor = self.inner(*inputs)
        return z


def compiled(module: nn.Module, mode: str | None = None) -> nn.Module:
    """Return the module compiled as one graph for one shape; it computes in place of ``module``."""
    whole = Whole(module)
    whole.compile(dynamic=False, mode=mode)
    return whole
