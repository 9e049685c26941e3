"""The generated maps of convolutions by their settings, with their properties; each file is imported on first use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd import Function

from ..runtime.backends import chosen
from ..runtime.rows import apply


class Map(NamedTuple):
    """A map: its file and class, its functions, kappa's default and lower bound, and the weight's deviation for a kappa."""

    home: str
    eager: type[Function]
    traced: Any
    kappa: float
    above: float
    deviation: Callable[[float], float]

    def apply(self, name: str, backend: str | None, x: Tensor, weight: Tensor, *others: Any) -> Tensor:
        """Return the output by a backend; compilers get another form of the function than eager calls."""
        eager, traced = chosen(name, backend, self.home, (self.eager, self.traced), x, weight)
        return apply(eager, traced, x, weight, *others)


def _patch_affine_like() -> Map:
    from .torch.patch_affine_like import (
        PatchAffineLike as eager,
        PatchAffineLikeReverse as traced,
    )

    return Map("patch_affine_like.PatchAffineLike", eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


def _patch_affine_like_centred() -> Map:
    from .torch.patch_affine_like_centred import (
        PatchAffineLikeCentred as eager,
        PatchAffineLikeCentredReverse as traced,
    )

    return Map("patch_affine_like_centred.PatchAffineLikeCentred", eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


def _patch_affine_like_transposed() -> Map:
    from .torch.patch_affine_like_transposed import (
        PatchAffineLikeTransposed as eager,
        PatchAffineLikeTransposedReverse as traced,
    )

    return Map("patch_affine_like_transposed.PatchAffineLikeTransposed", eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


def _patch_norm_like() -> Map:
    from .torch.patch_norm_like import (
        PatchNormLike as eager,
        PatchNormLikeReverse as traced,
    )

    return Map("patch_norm_like.PatchNormLike", eager, traced, 2.0, 1.0, lambda kappa: 1 / math.sqrt(kappa - 1))


def _patch_norm_like_centred() -> Map:
    from .torch.patch_norm_like_centred import (
        PatchNormLikeCentred as eager,
        PatchNormLikeCentredReverse as traced,
    )

    return Map("patch_norm_like_centred.PatchNormLikeCentred", eager, traced, 2.0, 1.0, lambda kappa: 1 / math.sqrt(kappa - 1))


def _patch_norm_like_centred_without_bias() -> Map:
    from .torch.patch_norm_like_centred_without_bias import (
        PatchNormLikeCentredWithoutBias as eager,
        PatchNormLikeCentredWithoutBiasReverse as traced,
    )

    return Map("patch_norm_like_centred_without_bias.PatchNormLikeCentredWithoutBias", eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


def _patch_norm_like_transposed() -> Map:
    from .torch.patch_norm_like_transposed import (
        PatchNormLikeTransposed as eager,
        PatchNormLikeTransposedReverse as traced,
    )

    return Map("patch_norm_like_transposed.PatchNormLikeTransposed", eager, traced, 2.0, 1.0, lambda kappa: 1 / math.sqrt(kappa - 1))


def _patch_norm_like_transposed_without_bias() -> Map:
    from .torch.patch_norm_like_transposed_without_bias import (
        PatchNormLikeTransposedWithoutBias as eager,
        PatchNormLikeTransposedWithoutBiasReverse as traced,
    )

    return Map("patch_norm_like_transposed_without_bias.PatchNormLikeTransposedWithoutBias", eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


def _patch_norm_like_without_bias() -> Map:
    from .torch.patch_norm_like_without_bias import (
        PatchNormLikeWithoutBias as eager,
        PatchNormLikeWithoutBiasReverse as traced,
    )

    return Map("patch_norm_like_without_bias.PatchNormLikeWithoutBias", eager, traced, 1.0, 0.0, lambda kappa: 1 / math.sqrt(kappa))


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
    """Return the map with these settings; raise ValueError for an unknown form, or one that needs a bias if there is none."""
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
