"""The generated maps of convolutions by what distinguishes them, and what holds of each; a file is read when needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function


class Map(NamedTuple):
    """A map: its functions, the default of kappa, the bound below it, and the deviation of a weight by kappa."""

    eager: type[Function]
    traced: type[Function]
    kappa: float
    above: float
    deviation: Callable[[float], float]

    def apply(self, *arguments: Any) -> Tensor:
        """Return the output; compilers read another form than is run eagerly."""
        chosen = self.traced if torch.compiler.is_compiling() else self.eager
        output: Tensor = chosen.apply(*arguments)[0]  # type: ignore[no-untyped-call]
        return output


def _patch_affine_like() -> Map:
    from ._triton_patch_affine_like import PatchAffineLike as eager
    from ._patch_affine_like import PatchAffineLikeReverse as traced

    return Map(eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


def _patch_affine_like_centred() -> Map:
    from ._patch_affine_like_centred import PatchAffineLikeCentred as eager, PatchAffineLikeCentredReverse as traced

    return Map(eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


def _patch_affine_like_transposed() -> Map:
    from ._triton_patch_affine_like_transposed import PatchAffineLikeTransposed as eager
    from ._patch_affine_like_transposed import PatchAffineLikeTransposedReverse as traced

    return Map(eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


def _patch_norm_like() -> Map:
    from ._triton_patch_norm_like import PatchNormLike as eager
    from ._patch_norm_like import PatchNormLikeReverse as traced

    return Map(eager, traced, 2.0, 1.0, lambda kappa: 1 / math.sqrt(kappa - 1))


def _patch_norm_like_centred() -> Map:
    from ._patch_norm_like_centred import PatchNormLikeCentred as eager, PatchNormLikeCentredReverse as traced

    return Map(eager, traced, 2.0, 1.0, lambda kappa: 1 / math.sqrt(kappa - 1))


def _patch_norm_like_centred_without_bias() -> Map:
    from ._patch_norm_like_centred_without_bias import PatchNormLikeCentredWithoutBias as eager, PatchNormLikeCentredWithoutBiasReverse as traced

    return Map(eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


def _patch_norm_like_transposed() -> Map:
    from ._triton_patch_norm_like_transposed import PatchNormLikeTransposed as eager
    from ._patch_norm_like_transposed import PatchNormLikeTransposedReverse as traced

    return Map(eager, traced, 2.0, 1.0, lambda kappa: 1 / math.sqrt(kappa - 1))


def _patch_norm_like_transposed_without_bias() -> Map:
    from ._triton_patch_norm_like_transposed_without_bias import PatchNormLikeTransposedWithoutBias as eager
    from ._patch_norm_like_transposed_without_bias import PatchNormLikeTransposedWithoutBiasReverse as traced

    return Map(eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


def _patch_norm_like_without_bias() -> Map:
    from ._triton_patch_norm_like_without_bias import PatchNormLikeWithoutBias as eager
    from ._patch_norm_like_without_bias import PatchNormLikeWithoutBiasReverse as traced

    return Map(eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


Maps = Mapping[tuple[str, bool, bool], Callable[[], Map]]  # by form, whether patches are centred, whether there is a bias

CONVOLUTIONS: Maps = {
    ("affine-like", False, True): _patch_affine_like,
    ("affine-like", True, True): _patch_affine_like_centred,
    ("norm-like", False, True): _patch_norm_like,
    ("norm-like", True, True): _patch_norm_like_centred,
    ("norm-like", True, False): _patch_norm_like_centred_without_bias,
    ("norm-like", False, False): _patch_norm_like_without_bias,
}
TRANSPOSED: Maps = {
    ("affine-like", False, True): _patch_affine_like_transposed,
    ("norm-like", False, True): _patch_norm_like_transposed,
    ("norm-like", False, False): _patch_norm_like_transposed_without_bias,
}


def choose(name: str, maps: Maps, form: str, centred: bool, with_bias: bool) -> Map:
    """Return the map of these settings; ValueError for a form that does not exist, or not without a bias."""
    forms = sorted({known for known, _, _ in maps})
    if form not in forms:
        raise ValueError(f"{name}: form is {form!r}; choose one of {', '.join(map(repr, forms))}")
    if (form, bool(centred), with_bias) not in maps:
        others = sorted({known for known, _, biased in maps if not biased})
        raise ValueError(
            f"{name}: the bias is missing, and the form {form!r} exists only with a bias; keep the bias, or use "
            f"form={' or '.join(map(repr, others))}"
        )
    return maps[form, bool(centred), with_bias]()
