"""Bring calls whose arguments are not simply the layer's input into the form of rows and units.

norm with gain      each unit is an affine map of one entry of the normalised input: a fully grouped convolution
bags with offsets   a linear map of the weight of each table row in each bag
unknown linear map  verified on the call: the same numbers as ``torch.nn.functional.linear``
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verify.diagnosis.sums import squared

Arrange = Callable[[Tensor], Tensor]
_CHANNELS_SECOND = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
NORMS = (*_CHANNELS_SECOND, nn.LayerNorm, nn.RMSNorm)
_COMPARED = 2  # samples on which a module is compared with the known layer that its parameters suggest
_TELLING = 0.1  # gain, relative to the bias or one, above which the output determines the normalised entry
OTHER = "its parameters look like those of a known layer, but it computes something else"


@dataclass(frozen=True)
class Read:
    """An input in the form of the site's stand-in, the output, and the function that arranges outputs likewise."""

    x: Tensor
    z: Tensor
    arranged: Arrange


def normalised_entries(module: Any, output: Tensor, entries: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Return chosen normalised entries of a norm, (units, chosen, 1): its output without gain and bias.

    None if a gain is too small to recover them from the output.

    Args:
        module: a norm that ``norm_with_gain`` has accepted before.
        output: its output, (samples, units, places).
        entries: selects entries of such a tensor, units first; it may select none.
    """
    weight = module.weight.detach().reshape(-1, 1, 1)
    bias = module.bias.detach().reshape(-1, 1, 1) if getattr(module, "bias", None) is not None else None
    if bool((weight.abs() < _TELLING * (1.0 if bias is None else bias.abs().clamp_min(1.0))).any()):
        return None
    picked = entries(output)
    if picked.numel() == 0:
        return picked
    return (picked if bias is None else picked - bias.to(picked.dtype)) / weight.to(picked.dtype)


def arranged_for(module: Any) -> Arrange:
    """Return a function that arranges a norm's output as (samples, units, places)."""
    units = module.weight.numel()

    def _arranged(tensor: Tensor) -> Tensor:
        second = isinstance(module, _CHANNELS_SECOND) and tensor.dim() > 2
        return tensor.flatten(2) if second else tensor.reshape(-1, units, 1)

    return _arranged


def first_tensor(output: Any) -> Tensor:
    """Return the first tensor of an output; raise TypeError if there is none."""
    found = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(found, Tensor):
        raise TypeError(f"it returned a {type(output).__name__}, not a tensor")
    return found


def norm_with_gain(module: Any, arguments: Any, words: Any, output: Any) -> Read:
    """Read a norm as single normalised entries (samples, units, places); raise ValueError if it is not one."""
    x, z = _first(arguments, words), first_tensor(output)
    with torch.no_grad():
        normal = _normalised(module, x.detach())
    arranged = arranged_for(module)
    rows, made = arranged(normal), arranged(z.detach()[:_COMPARED])
    bias = 0.0 if getattr(module, "bias", None) is None else module.bias.detach().reshape(-1, 1)
    if not _alike(rows[: len(made)] * module.weight.detach().reshape(-1, 1) + bias, made):
        raise ValueError(OTHER)
    return Read(rows, z, arranged)


def _normalised(module: Any, x: Tensor) -> Tensor:
    """Return the normalised input, before the gain."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        by_batch = module.training or module.running_mean is None
        mean, variance = (None, None) if by_batch else (module.running_mean, module.running_var)
        return F.batch_norm(x, mean, variance, None, None, by_batch, 0.0, module.eps)
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        own = module.training or module.running_mean is None
        return F.instance_norm(x, module.running_mean, module.running_var, None, None, own, 0.0, module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, None, None, module.eps)
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, None, None, module.eps)
    if isinstance(module, nn.RMSNorm):
        return F.rms_norm(x, module.normalized_shape, None, module.eps)
    twin = copy.copy(module)  # its forward is called directly, so that no hook runs
    held = {name: p for name, p in module._parameters.items() if p is not None}
    plain = {name: torch.ones_like(p) if name == "weight" else torch.zeros_like(p) for name, p in held.items()}
    twin.__dict__["_parameters"] = {name: nn.Parameter(value, requires_grad=False) for name, value in plain.items()}
    return first_tensor(twin.forward(x))


def linear_by_value(module: Any, arguments: Any, words: Any, output: Any) -> Read:
    """Read another library's linear map; raise ValueError if its output differs from that of a linear map."""
    x, z = _first(arguments, words), first_tensor(output)
    weight, bias = module.weight.detach(), getattr(module, "bias", None)
    if x.shape[-1] != weight.shape[-1] or not x.is_floating_point():
        raise ValueError(OTHER)
    if z.shape != (*x.shape[:-1], len(weight)):
        raise ValueError(OTHER)
    some = x.detach()[:_COMPARED]
    with torch.no_grad():
        made = F.linear(some.to(weight.dtype), weight, None if bias is None else bias.detach())
    if not _alike(made, z.detach()[:_COMPARED]):
        raise ValueError(OTHER)
    return Read(x, z, lambda tensor: tensor)


def bags(module: nn.EmbeddingBag, arguments: Any, words: Any, output: Any) -> Read:
    """Read bags with offsets or weights: the weight of each table row in each bag."""
    given = {**dict(zip(("input", "offsets", "per_sample_weights"), arguments, strict=False)), **words}
    tokens, offsets, weights = (given.get(word) for word in ("input", "offsets", "per_sample_weights"))
    assert isinstance(tokens, Tensor)
    if tokens.dim() == 2:
        which = torch.arange(len(tokens), device=tokens.device).unsqueeze(1).expand_as(tokens).reshape(-1)
        count = len(tokens)
    else:
        assert isinstance(offsets, Tensor)
        ends = offsets[:-1] if module.include_last_offset else offsets
        count = len(ends)
        which = torch.searchsorted(ends.contiguous(), torch.arange(len(tokens), device=tokens.device), right=True) - 1
    flat = tokens.reshape(-1)
    size = torch.ones(len(flat), dtype=torch.float64, device=flat.device)
    size = size if weights is None else weights.detach().reshape(-1).double()
    if module.padding_idx is not None:
        size = size * (flat != module.padding_idx)
    counts = torch.zeros(count, module.num_embeddings, dtype=torch.float64, device=flat.device)
    counts.index_put_((which, flat), size, accumulate=True)
    if module.mode == "mean":
        counts = counts / counts.sum(1, keepdim=True).clamp_min(1)
    return Read(counts, first_tensor(output), lambda tensor: tensor)


def _first(arguments: Any, words: Any) -> Tensor:
    x = arguments[0] if arguments else next(iter(words.values()), None)
    if not isinstance(x, Tensor):
        raise TypeError(f"it was called with a {type(x).__name__}, not a tensor")
    return x


def _alike(made: Tensor, real: Tensor) -> bool:
    """Whether tensors agree up to rounding; non-finite ones count as equal, since they are reported elsewhere."""
    size = squared(real)
    if not math.isfinite(size):
        return True
    return squared(made - real) ** 0.5 <= torch.finfo(torch.bfloat16).eps * (size**0.5 + 1e-30)
