"""The generated maps as modules with the parameters of ``torch.nn.Linear``."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from . import functional
from .runtime.backends import check_backend
from .runtime.checks import check_features, check_init, check_kappa
from .runtime.leaf import leaf
from .runtime.operands import PLAIN

__all__ = ["AffineLike", "NormLike"]


class AffineLike(nn.Module):
    """The affine-like (non-normalising) solution of the affine divergence, a drop-in for ``torch.nn.Linear``.

    z[s,i] = f[s]*(sum[j](W[i,j]*x[s,j]) + b[i]), f[s] = sqrt(kappa)/sqrt(E[s] + 1), E[s] = sum[j](x[s,j]**2)

    Each sample's own gradient moves its own activation by the same factor kappa. The parameters ``weight`` (m, n) and
    ``bias`` (m) have the names and shapes of ``torch.nn.Linear``, so state dicts load both ways; kappa is a setting and
    not part of the state. Input (..., n), output (..., m).

    Args:
        in_features: n.
        out_features: m.
        bias: must be True: the map exists only with a bias.
        device: the device of the parameters.
        dtype: their floating-point type.
        kappa: the self factor of every sample, above 0.0.
        init: how ``reset_parameters`` draws: "variance-preserving", or "torch" for torch's own way.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Raises:
        TypeError: a size that is not an integer, a kappa that is not a number.
        ValueError: a size below 1, a kappa out of range, an unknown init or backend, ``bias=False``.
    """

    __constants__ = ("in_features", "kappa", "out_features")
    in_features: int
    out_features: int
    kappa: float
    init: str
    backend: str | None
    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        kappa: float = 1.0,
        init: str = "variance-preserving",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        check_features("AffineLike", in_features=in_features, out_features=out_features)
        if not bias:
            raise ValueError(
                "AffineLike(bias=False): the non-normalising affine-like map exists only with a bias; keep the bias, "
                "or use NormLike"
            )
        self.kappa = check_kappa("AffineLike", kappa, above=0.0)
        self.in_features, self.out_features = in_features, out_features
        self.init, self.backend = check_init("AffineLike", init), check_backend("AffineLike", backend)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight so that outputs keep unit variance for any ``in_features``, and set the bias to zero.

        With ``init="torch"`` both are drawn as ``torch.nn.Linear`` draws them.
        """
        if self.init == "torch":
            nn.Linear.reset_parameters(cast(nn.Linear, self))
            return
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.kappa))
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return z (..., m) for an input (..., n); raises the errors of ``functional.affine_like``."""
        if type(input) not in PLAIN and (step := leaf(self, input)) is not None:
            return step
        return functional.affine_like(input, self.weight, self.bias, self.kappa, backend=self.backend)

    def extra_repr(self) -> str:
        """Return the settings for the module's ``repr``."""
        features = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        features += f", kappa={self.kappa:g}"
        features += f", init={self.init!r}" if self.init != "variance-preserving" else ""
        return features + (f", backend={self.backend!r}" if self.backend is not None else "")


class NormLike(nn.Module):
    """The norm-like (normalising) solution of the affine divergence, a drop-in for ``torch.nn.Linear``.

    with a bias: z[s,i] = f[s]*sum[j](W[i,j]*x[s,j]) + b[i], f[s] = sqrt(kappa - 1)/sqrt(E[s]), E[s] = sum[j](x[s,j]**2)
    without: z[s,i] = f[s]*sum[j](W[i,j]*x[s,j]), f[s] = sqrt(kappa)/sqrt(E[s]), E[s] = sum[j](x[s,j]**2)

    Each sample's own gradient moves its own activation by the same factor kappa. The parameters ``weight`` (m, n) and
    ``bias`` (m) have the names and shapes of ``torch.nn.Linear``, so state dicts load both ways; kappa is a setting and
    not part of the state. Input (..., n), output (..., m). A row of zeros has no direction: its weight part and its
    gradient are zero.

    Args:
        in_features: n.
        out_features: m.
        bias: learn an additive bias.
        device: the device of the parameters.
        dtype: their floating-point type.
        kappa: the self factor of every sample; above 1.0 with a bias, where None means 2.0; above 0.0 without, where it
            means 1.0.
        center: first subtract each row's mean: the map is then a LayerNorm without gain and a linear layer.
        init: how ``reset_parameters`` draws: "variance-preserving", or "torch" for torch's own way.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Raises:
        TypeError: a size that is not an integer, a kappa that is not a number.
        ValueError: a size below 1, a kappa out of range, an unknown init or backend.
    """

    __constants__ = ("in_features", "kappa", "out_features")
    in_features: int
    out_features: int
    kappa: float
    init: str
    backend: str | None
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        kappa: float | None = None,
        center: bool = False,
        init: str = "variance-preserving",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        check_features("NormLike", in_features=in_features, out_features=out_features)
        if kappa is None:
            kappa = 2.0 if bias else 1.0
        self.kappa = check_kappa("NormLike", kappa, above=1.0 if bias else 0.0)
        self.in_features, self.out_features = in_features, out_features
        self.center = center
        self.init, self.backend = check_init("NormLike", init), check_backend("NormLike", backend)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight so that outputs keep unit variance for any ``in_features``, and set the bias to zero.

        With ``init="torch"`` both are drawn as ``torch.nn.Linear`` draws them.
        """
        if self.init == "torch":
            nn.Linear.reset_parameters(cast(nn.Linear, self))
            return
        deviation = 1 / math.sqrt(self.kappa) if self.bias is None else 1 / math.sqrt(self.kappa - 1)
        nn.init.normal_(self.weight, std=deviation)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return z (..., m) for an input (..., n); raises the errors of ``functional.norm_like``."""
        if type(input) not in PLAIN and (step := leaf(self, input)) is not None:
            return step
        return functional.norm_like(input, self.weight, self.bias, self.kappa, self.center, backend=self.backend)

    def extra_repr(self) -> str:
        """Return the settings for the module's ``repr``."""
        features = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        features += f", kappa={self.kappa:g}" + (", center=True" if self.center else "")
        features += f", init={self.init!r}" if self.init != "variance-preserving" else ""
        return features + (f", backend={self.backend!r}" if self.backend is not None else "")
