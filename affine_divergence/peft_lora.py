"""LoRA on the layers of this package, through peft: the low-rank term is scaled inside the layer, so that it merges.

    z = map(x; W + c B A, b) = map(x; W, b) + c B map(x; A, 0)

holds for every map here, since the scale of a row or patch depends only on the input. If the term were added outside the
map, as peft does for torch's layers, it would lack that scale and a merge would change the model. Imports peft.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from .adapters import check_config
from .modules import AffineLike, NormLike
from .patch_modules import (
    PatchNormConv1d,
    PatchNormConv2d,
    PatchNormConv3d,
    PatchNormConvTranspose1d,
    PatchNormConvTranspose2d,
    PatchNormConvTranspose3d,
)

__all__ = ["Lora"]

_ROWS = (AffineLike, NormLike)
_PATCHES = (PatchNormConv1d, PatchNormConv2d, PatchNormConv3d, PatchNormConvTranspose1d, PatchNormConvTranspose2d, PatchNormConvTranspose3d)
_TRANSPOSED = (PatchNormConvTranspose1d, PatchNormConvTranspose2d, PatchNormConvTranspose3d)

class Lora(nn.Module, LoraLayer):
    """A layer of this package with low-rank terms of its weight, one per adapter, in peft's structure.

    ``lora_A`` is the layer's own map to ``r`` outputs without a bias, ``lora_B`` a linear layer or a convolution over
    one position. Dropout acts between the two: before the map it would change the scale. peft makes it, see
    ``lora_config``.

    Raises:
        ValueError: for a rank below 1 or not a multiple of the groups, or a setting that ``lora_config`` refuses.
    """

    base_layer: nn.Module
    r: dict[str, int]
    lora_alpha: dict[str, float]
    scaling: dict[str, float]
    use_rslora: dict[str, bool]
    use_dora: dict[str, bool]
    lora_bias: dict[str, bool]
    lora_A: Any
    lora_B: Any
    lora_dropout: Any
    active_adapters: list[str]
    merged_adapters: list[str]
    merged: bool
    disable_adapters: bool
    get_base_layer: Any
    reset_lora_parameters: Any
    set_adapter: Any
    _move_adapter_to_device_of_base_layer: Any
    _check_forward_args: Any
    _mixed_batch_forward: Any
    _cast_input_dtype: Any
    out_features: int

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any, r: int = 0, lora_alpha: float = 1, **given: Any) -> None:
        super().__init__()
        LoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha, config, **given)

    def _get_in_out_features(self, module: Any) -> tuple[int, int]:
        if isinstance(module, _ROWS):
            return module.in_features, module.out_features
        return module.in_channels, module.out_channels

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: Any, **given: Any) -> None:
        """Add an adapter of rank ``r``, or replace one; peft calls this."""
        check_config(config)
        base = self.get_base_layer()
        groups = getattr(base, "groups", 1)
        if r < 1 or r % groups:
            raise ValueError(f"lora_config: r is {r}; give a positive multiple of the layer's groups, {groups}")
        self.r[adapter_name], self.lora_alpha[adapter_name] = r, lora_alpha
        self.scaling[adapter_name] = lora_alpha / (r**0.5 if config.use_rslora else r)
        self.use_rslora[adapter_name], self.use_dora[adapter_name] = config.use_rslora, False
        self.lora_bias[adapter_name] = False
        dropout = config.lora_dropout
        self.lora_dropout[adapter_name] = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.lora_A[adapter_name] = _narrow(base, r)
        self.lora_B[adapter_name] = _wide(base, r, self.out_features)
        self.reset_lora_parameters(adapter_name, config.init_lora_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **given: Any) -> Tensor:
        """Return the layer's output with the active adapters; ``adapter_names`` gives each sample its own."""
        self._check_forward_args(x, *args, **given)
        for name in self.lora_A:
            self._follow_base(name)
        names = given.pop("adapter_names", None)
        if self.disable_adapters and self.merged:
            self.unmerge()
        if names is not None and not self.disable_adapters:
            mixed: Tensor = self._mixed_batch_forward(x, *args, adapter_names=names, **given)
            return mixed
        z: Tensor = self.base_layer(x, *args, **given)
        if self.disable_adapters or self.merged:
            return z
        total = z
        for name in self.active_adapters:
            if name in self.lora_A:
                inner = self.lora_A[name](self._cast_input_dtype(x, self.lora_A[name].weight.dtype), *args, **given)
                total = total + self.lora_B[name](self.lora_dropout[name](inner)) * self.scaling[name]
        return total.to(z.dtype)

    def _follow_base(self, name: str) -> None:
        """Give an adapter's map the layer's current settings, and a bias of the type of its weight."""
        base, down = self.get_base_layer(), self.lora_A[name]
        if (down.kappa, down.backend) != (base.kappa, base.backend):
            down.kappa, down.backend = base.kappa, base.backend
        if down.bias is not None and (down.bias.dtype, down.bias.device) != (down.weight.dtype, down.weight.device):
            down.bias = down.bias.to(down.weight)  # peft converts only parameters

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return an adapter's term of the weight, in the weight's shape."""
        base = self.get_base_layer()
        A, B = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        dtype = torch.promote_types(A.dtype, torch.float32)
        A, B = A.to(dtype), B.to(dtype)
        if isinstance(base, _ROWS):
            return self.scaling[adapter] * (B @ A)
        B = B.flatten(1).unflatten(0, (base.groups, -1))  # (groups, out, r)
        A = A.unflatten(0, (base.groups, -1))  # (groups, r, in, *kernel), transposed (groups, in, r, *kernel)
        product = "gor,gir...->gio..." if isinstance(base, _TRANSPOSED) else "gor,gri...->goi..."
        return self.scaling[adapter] * torch.einsum(product, B, A).flatten(0, 1)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters, by default the active ones, to the layer's weight.

        Raises:
            ValueError: with ``safe_merge``, if the sum is not finite; the weight is then unchanged.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.lora_A:
                weight = self.get_base_layer().weight
                merged = (weight.data + self.get_delta_weight(name)).to(weight.dtype)
                if safe_merge and not torch.isfinite(merged).all():
                    raise ValueError(f"merge: the weight with adapter {name!r} is not finite; the adapter holds non-finite numbers, or its sum overflows")
                weight.data = merged
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Subtract the merged terms from the layer's weight."""
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            if name in self.lora_A:
                weight = self.get_base_layer().weight
                weight.data = (weight.data - self.get_delta_weight(name)).to(weight.dtype)


def _narrow(base: Any, rank: int) -> nn.Module:
    """Return the map of a layer with ``rank`` outputs, a weight of its own, and a bias of zeros if the map has one."""
    kind = next(kind for kind in (*_ROWS, *_PATCHES) if isinstance(base, kind))
    new: Any = kind.__new__(kind)
    nn.Module.__init__(new)
    own = {"_before_conversion", *new.__dict__}
    new.__dict__.update({word: value for word, value in base.__dict__.items() if word not in own})
    W = base.weight
    if kind in _ROWS:
        new.out_features, shape = rank, (rank, W.shape[1])
    else:
        new.out_channels = rank
        turned = (W.shape[0], rank // base.groups, *W.shape[2:])
        shape = turned if kind in _TRANSPOSED else (rank, *W.shape[1:])
    new.weight = nn.Parameter(torch.empty(shape, device=W.device))
    nn.init.kaiming_uniform_(new.weight, a=5**0.5)  # as in torch's layers, and so in lora_B
    new.register_buffer("bias", None if base.bias is None else torch.zeros(rank, device=W.device), persistent=False)
    return new


def _wide(base: Any, rank: int, outputs: int) -> nn.Module:
    """Return the linear layer from ``rank`` features to the outputs of a layer, at each position of a convolution."""
    if isinstance(base, _ROWS):
        return nn.Linear(rank, outputs, bias=False)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[base.weight.dim() - 3]
    return kind(rank, outputs, 1, groups=base.groups, bias=False)
