"""How far a step of descent on its own gradient moves the activation of a sample: the self factor K_ss of a layer.

    affine                  sum[j](x[s,j]**2) + 1
    linear                  sum[j](x[s,j]**2)
    embedding               1
    weighted-embedding-bag  sum[j,k](w[s,j]*w[s,k]*delta(t[s,j], t[s,k]))

Convolutions follow the general law (``convolution/general-law``, ``transposed-convolution/general-law``): the self
factor is the same operator on the squared input with every weight 1, plus a constant for the bias.

Derivations (SHA-256 of the forward maps):

    affine: 99f67e7521c3ff5c34caa16695a71930e7cea8c7969e96c0ce56928d6b71610f
    linear: b9a2be5c803d36ee454ffbd0e2a2edd61f9398de1ecb7ec66fc1b48ffc28443e
    embedding: b22dff352dfe4c397204468d01c6071ca80ae471bb3fe2bc1723b44fa38b395c
    weighted-embedding-bag: c6074b4fb27a7b58a0a19474dc71c183830c601c705a5a6811b1fd3ff979e126
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AffineLikeMultiheadAttention
from .modules import AffineLike, NormLike
from .runtime.patches import Geometry, box
from .runtime.rows import centred

__all__ = ["self_factor"]


def self_factor(
    module: nn.Module, x: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
) -> Tensor:
    """Return the self factor of each sample of a layer's output: 1 or kappa at every sample is the ideal.

    If all parameters of the layer are trained, a step of gradient descent with rate eta moves the activation of a
    sample by -eta times its own gradient times this number, in addition to the effect of other samples. Supported are
    the layers of this package and torch's ``Linear``, ``Conv1d/2d/3d``, ``ConvTranspose1d/2d/3d``, ``Embedding``,
    ``EmbeddingBag`` and ``MultiheadAttention``.

    Args:
        module: the layer.
        x: its input. For attention, the tokens that the query, key or value projection reads, (.., features); each of the
        three projections has this self factor. For the output projection pass ``module.out_proj`` and the context.
        offsets: the start of each bag, for ``EmbeddingBag`` with an input of one axis.
        per_sample_weights: as in ``EmbeddingBag``.

    Returns:
        One number per sample, at least float32: ``x.shape[:-1]`` for linear layers and attention, (batch, *space) of
        the output for convolutions, (batch, groups, *space) with groups, which read different inputs, the input's shape
        for ``Embedding``, one number per bag for ``EmbeddingBag``. Without a batch in ``x`` the result has none.

    Raises:
        TypeError: for a module whose self factor is not known, or an input of the wrong type.
        ValueError: for an input of the wrong shape, or a setting with a different self factor.
    """
    _check(module, x)
    if isinstance(module, _patch_norms()):
        return _patch_norm(module, x)
    if isinstance(module, nn.EmbeddingBag):
        return _bags(module, x, offsets, per_sample_weights)
    if offsets is not None or per_sample_weights is not None:
        name = type(module).__name__
        raise ValueError(f"self_factor: offsets and weights are for EmbeddingBag, not for {name}; leave them out")
    for kinds, compute in _KINDS:
        if isinstance(module, kinds):
            return compute(module, x)
    raise AssertionError("every known kind is in the table")


def _check(module: object, x: object) -> None:
    """Raise unless the module is one of a known class, with parameters of its own, and ``x`` is a tensor."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"self_factor: module is a {type(module).__name__}; give a layer and its input")
    kind = type(module)
    known = next((k for k in (*_KNOWN, *_patch_norms()) if isinstance(module, k)), None)
    if known is None:
        names = ", ".join(k.__name__ for k in _KNOWN)
        raise TypeError(f"self_factor: no self factor of {kind.__name__} is known; the known classes are {names}")
    problem = ""
    if hasattr(module, "parametrizations"):
        problem = "its parameters are computed from others"
    elif getattr(kind, "forward", None) is not getattr(known, "forward", None) or "forward" in module.__dict__:
        problem = f"it has a forward map of its own, not that of {known.__name__}"
    elif not any(module._parameters.get(name) is not None for name in ("weight", "in_proj_weight", "q_proj_weight")):
        problem = "its weight is computed from other parameters"
    elif nn.parameter.is_lazy(next(p for p in module._parameters.values() if p is not None)):
        raise TypeError(f"self_factor: the shapes of this {kind.__name__} are not known yet; call it once first")
    if problem:
        raise TypeError(f"self_factor: {kind.__name__}: {problem}; measure it by automatic differentiation")
    if not isinstance(x, Tensor):
        raise TypeError(f"self_factor: x is a {type(x).__name__}; give the layer's input, a tensor")
    looks_up = isinstance(module, nn.Embedding | nn.EmbeddingBag)
    if looks_up == x.is_floating_point() or x.is_complex():
        wanted = "integers" if looks_up else "real numbers"
        raise TypeError(f"self_factor: x has type {x.dtype}; {kind.__name__} takes {wanted}")


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _features(module: nn.Module, x: Tensor, *widths: int) -> None:
    """Raise ValueError unless the last axis of ``x`` has one of the lengths."""
    if x.dim() == 0 or x.shape[-1] not in widths:
        wanted = " or ".join(str(width) for width in sorted(set(widths)))
        raise ValueError(
            f"self_factor: x has shape {tuple(x.shape)}; {type(module).__name__} takes {wanted} features, on the last axis"
        )


def _linear(module: Any, x: Tensor) -> Tensor:
    """sum[j](x[s,j]**2) + 1, without a bias sum[j](x[s,j]**2)."""
    _features(module, x, module.in_features)
    return _affine(_wide(x), module.bias is not None)


def _affine(x: Tensor, bias: bool) -> Tensor:
    if bias:
        return 1 + (x**2).sum(-1)  # affine/self-factor
    return (x**2).sum(-1)  # linear/self-factor


def _projections(module: Any, x: Tensor) -> Tensor:
    """The queries', keys' and values' projections are affine maps of each token."""
    _features(module, x, module.embed_dim, module.kdim, module.vdim)
    return _affine(_wide(x), module.in_proj_bias is not None)


def _constant(module: Any, x: Tensor) -> Tensor:
    """Kappa for every sample of a corrected layer."""
    widths = (module.in_features,) if hasattr(module, "in_features") else (module.embed_dim, module.kdim, module.vdim)
    _features(module, x, *widths)
    return torch.full(x.shape[:-1], module.kappa, dtype=_wide(x).dtype, device=x.device)


def _normlike(module: Any, x: Tensor) -> Tensor:
    """Kappa; at a zero input, where the weight part vanishes, only the share of the bias."""
    alive = (centred(x) if module.center else x).any(-1)
    left = 0 if module.bias is None else 1
    return torch.where(alive, _constant(module, x), left)


def _embedding(module: nn.Embedding, x: Tensor) -> Tensor:
    """1, and zero for the token whose row is not trained."""
    _check_rows("Embedding", module)
    factor = 1  # embedding/self-factor
    moved = torch.ones_like(x, dtype=torch.bool) if module.padding_idx is None else x != module.padding_idx
    return factor * _wide(moved.to(module.weight.dtype))


def _check_rows(name: str, module: nn.Embedding | nn.EmbeddingBag) -> None:
    """Raise ValueError for settings with which a step on the rows is not gradient descent."""
    if module.scale_grad_by_freq:
        raise ValueError(
            f"self_factor: {name} with scale_grad_by_freq=True divides gradients by counts in the batch, which is not a step "
            "of gradient descent; set it to False"
        )
    if module.max_norm is not None:
        raise ValueError(
            f"self_factor: {name} with max_norm={module.max_norm:g} rescales rows when they are read, so that a step "
            "moves an activation by another amount; set it to None"
        )


def _bags(module: nn.EmbeddingBag, x: Tensor, offsets: Tensor | None, weights: Tensor | None) -> Tensor:
    """sum[j,k](w[s,j]*w[s,k]*delta(t[s,j], t[s,k])), w the weight of a token: 1, or for a mean 1 over their number."""
    _check_rows("EmbeddingBag", module)
    if module.mode == "max":
        raise ValueError("self_factor: EmbeddingBag with mode='max' is not a weighted sum of rows; use 'sum' or 'mean'")
    if weights is not None and module.mode != "sum":
        raise ValueError(f"self_factor: per_sample_weights are for mode='sum', not {module.mode!r}; leave them out")
    if weights is not None and weights.shape != x.shape:
        raise ValueError(
            f"self_factor: per_sample_weights has shape {tuple(weights.shape)}; give one per token: {tuple(x.shape)}"
        )
    w = _wide(torch.ones_like(x, dtype=module.weight.dtype) if weights is None else weights)
    if module.padding_idx is not None:
        w = w * (x != module.padding_idx)
    t, w = _as_bags(module, x, w, offsets)
    if module.mode == "mean":
        w = w / w.sum(-1, keepdim=True).clamp_min(1)
    # weighted-embedding-bag/self-factor
    return ((t.unsqueeze(-1) == t.unsqueeze(-2)) * w.unsqueeze(-1) * w.unsqueeze(-2)).sum((-2, -1))


def _as_bags(module: nn.EmbeddingBag, x: Tensor, w: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return tokens and weights as (bags, tokens); shorter bags are padded with tokens of weight zero."""
    if x.dim() == 2 and offsets is None:
        return x, w
    if x.dim() != 1 or offsets is None or offsets.dim() != 1 or len(offsets) == 0:
        raise ValueError(
            f"self_factor: x has shape {tuple(x.shape)}, offsets {None if offsets is None else tuple(offsets.shape)}; give bags "
            "of equal length (bags, tokens), or all tokens (tokens) and where each bag begins (bags)"
        )
    starts = offsets.tolist()
    if module.include_last_offset:
        x, w, starts = x[: starts[-1]], w[: starts[-1]], starts[:-1]
    pad = nn.utils.rnn.pad_sequence
    return pad(list(x.tensor_split(starts[1:])), True), pad(list(w.tensor_split(starts[1:])), True)


def _convolution(module: Any, x: Tensor) -> Tensor:
    """The general law of convolutions: the operator on squares, plus a constant for the bias."""
    sums = _on_squares(module, _wide(x))
    if module.bias is not None:
        return _as_given(sums + 1, module, x)  # convolution/general-law
    return _as_given(sums, module, x)


def _transposed_convolution(module: Any, x: Tensor) -> Tensor:
    """The general law of transposed convolutions: the operator on squares, plus a constant for the bias."""
    sums = _on_squares(module, _wide(x))
    if module.bias is not None:
        return _as_given(sums + 1, module, x)  # transposed-convolution/general-law
    return _as_given(sums, module, x)


@cache
def _patch_norms() -> tuple[type[nn.Module], ...]:
    """Return the PatchNorm classes; not every package holds them."""
    names = [f"PatchNormConv{word}{axes}d" for word in ("", "Transpose") for axes in "123"]
    found = (getattr(sys.modules[__package__ or ""], name, None) for name in names)
    return tuple(kind for kind in found if kind is not None)


def _patch_norm(module: Any, x: Tensor) -> Tensor:
    """Kappa; at a zero patch, where the scale vanishes, only the share of the bias."""
    exact = _wide(x) if x.device.type == "mps" else x.double()  # for the difference below
    sums = _on_squares(module, exact)
    if getattr(module, "center", False):
        means = _on_squares(module, exact, power=1) ** 2 / (module.weight[0].numel())
        sums = (sums - means).masked_fill(sums - means <= sums * torch.finfo(sums.dtype).eps ** 0.75, 0)
    left = 0 if module.bias is None else 1
    if module.form != "norm-like":
        left = module.kappa
    return _as_given(torch.where(sums > 0, sums.new_full((), module.kappa), left), module, x)


def _on_squares(module: Any, x: Tensor, power: int = 2) -> Tensor:
    """Return a convolution of the squared input with every weight 1, (batch, groups, *space).

    Squares are computed in the input's type, their sums in float64 if possible. With ``power`` 1 the input is not
    squared.
    """
    axes, groups = len(module.kernel_size), module.groups
    if x.dim() not in (1 + axes, 2 + axes) or x.shape[-axes - 1] != module.in_channels:
        raise ValueError(
            f"self_factor: x has shape {tuple(x.shape)}; {type(module).__name__} takes {module.in_channels} channels, with "
            f"{axes} axes of space after them and optionally a batch before"
        )
    image = x if x.dim() == 2 + axes else x.unsqueeze(0)
    turned = "Transpose" in type(module).__name__ or isinstance(module, _TRANSPOSED_KINDS)
    zeros = module.padding_mode == "zeros"
    ends = () if turned else module._ends if hasattr(module, "_ends") else module._reversed_padding_repeated_twice
    if not zeros:
        image = F.pad(image, ends, mode=module.padding_mode)
    channels = image.shape[1] // groups
    squares = (image**power).reshape(image.shape[0], groups, channels, *image.shape[2:]).sum(2)
    squares = squares if x.device.type == "mps" else squares.double()
    if turned:
        ones = squares.new_ones(groups, 1, *module.kernel_size)
        numbers = module.stride, module.padding, module.output_padding, groups, module.dilation
        return _TRANSPOSED[axes - 1](squares, ones, None, *numbers)
    none = (0,) * axes
    squares = F.pad(squares, ends) if zeros else squares
    return box(squares.unsqueeze(2), Geometry(module.kernel_size, module.stride, none, module.dilation, none)).squeeze(2)


def _as_given(sums: Tensor, module: Any, x: Tensor) -> Tensor:
    """Return (batch, groups, *space) without the groups if there is only one, and without a batch if ``x`` has none."""
    sums = sums.to(torch.promote_types(x.dtype, torch.float32))
    sums = sums.squeeze(1) if module.groups == 1 else sums
    return sums if x.dim() == 2 + len(module.kernel_size) else sums.squeeze(0)


_TRANSPOSED: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_TRANSPOSED_KINDS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_KINDS: tuple[tuple[tuple[type[nn.Module], ...], Callable[[Any, Tensor], Tensor]], ...] = (
    ((nn.Linear,), _linear),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    (_TRANSPOSED_KINDS, _transposed_convolution),
    ((nn.Embedding,), _embedding),
    ((nn.MultiheadAttention,), _projections),
    ((NormLike,), _normlike),
    ((AffineLike, AffineLikeMultiheadAttention), _constant),
)
_KNOWN = (*(kind for kinds, _ in _KINDS for kind in kinds), nn.EmbeddingBag)
