"""Multi-head attention whose projections cancel their divergence."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import functional
from .kernels.torch.unit import UnitPair, UnitPairReverse
from .kernels.torch.value_path import corrected
from .modules import AffineLike
from .runtime.attention import as_heads, as_source, from_heads, merged_mask, mixed
from .runtime.attention_checks import check_masks, check_settings, check_tokens
from .runtime.backends import check_backend, chosen_for_rows
from .runtime.checks import check_init, check_operands
from .runtime.leaf import leaf
from .runtime.operands import PLAIN
from .runtime.rows import results

__all__ = ["AffineLikeMultiheadAttention"]


class AffineLikeMultiheadAttention(nn.Module):
    """Multi-head attention with affine-like projections, a drop-in for ``torch.nn.MultiheadAttention``.

    Tokens are samples. The query, key, value and output projections are the map of ``AffineLike``: each token's own
    gradient moves its own query, key, value and output by the same factor. Parameters, state dicts, arguments, masks
    and results are as in ``torch.nn.MultiheadAttention``. Without weights (``need_weights=False``) torch's fused
    kernels are used; these have no second derivatives on some devices, which the form with weights has.

    Args:
        embed_dim: E, the features of a token; a multiple of ``num_heads``.
        num_heads: H; each head has d = E / H features.
        dropout: the probability that a weight is dropped while training.
        bias: must be True: the map of the projections exists only with a bias.
        add_bias_kv: learn one additional key and value, which every query attends to.
        add_zero_attn: add one key and value of zeros, which every query attends to.
        kdim: features of a key's token; E if None.
        vdim: features of a value's token; E if None.
        batch_first: tokens are (N, L, E) and not (L, N, E).
        device: the device of the parameters.
        dtype: their floating-point type.
        value_path: correct the whole value path instead of the value projection, ``z[s,r,t,h] =
            f[s,r,t]*sum[k](A[s,r,t,k]*v[s,r,k,h])`` with ``f[s,r,t] = sqrt(kappa)/sqrt(E_1[s,r,t] + 1)``, ``E_1[s,r,t]
            = sum[j](sum[k](A[s,r,t,k]*y[s,k,j])**2)``: with the attention weights A held fixed, each token's own
            gradient moves its own mixture of values by the same factor. After dropout and ``add_zero_attn``, the
            remaining weights of the tokens are divided by their sum. ``add_bias_kv`` is refused: the map has no place
            for its value, a parameter.
        qk_norm: scale every query and key to unit length; the scores are then multiplied by ``score_scale``, the square
            root of d by default. This removes the radial part and leaves a residual: it is not a cancellation.
        init: how ``reset_parameters`` draws: "variance-preserving", or "torch" for torch's own way.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``. It computes the
            projections and unit lengths.

    Attributes:
        score_scale: the factor of the products of queries and keys.

    Raises:
        TypeError: a size that is not an integer, a dropout that is not a number.
        ValueError: a size or dropout out of range, an unknown init or backend, ``bias=False``, ``value_path`` with ``add_bias_kv``.
    """

    __constants__ = ("batch_first",)
    kappa: float = 1.0
    in_proj_weight: nn.Parameter | None
    q_proj_weight: nn.Parameter | None
    k_proj_weight: nn.Parameter | None
    v_proj_weight: nn.Parameter | None
    in_proj_bias: nn.Parameter
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        value_path: bool = False,
        qk_norm: bool = False,
        init: str = "variance-preserving",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        check_settings("AffineLikeMultiheadAttention", embed_dim, num_heads, dropout, self.kdim, self.vdim)
        if not bias:
            raise ValueError(
                "AffineLikeMultiheadAttention(bias=False): the non-normalising affine-like map of the projections "
                "exists only with a bias; keep the bias"
            )
        if value_path and add_bias_kv:
            raise ValueError(
                "AffineLikeMultiheadAttention(value_path=True, add_bias_kv=True): the map of the value path has no "
                "place for the value that add_bias_kv learns; leave one of the two out"
            )
        self.head_dim = embed_dim // num_heads
        self.add_zero_attn, self.value_path, self.qk_norm = add_zero_attn, value_path, qk_norm
        self.score_scale = self.head_dim**0.5 if qk_norm else 1 / math.sqrt(self.head_dim)
        self.init, self.backend = check_init("AffineLikeMultiheadAttention", init), check_backend("AffineLikeMultiheadAttention", backend)
        self._make_parameters(add_bias_kv, device, dtype)
        self.out_proj = AffineLike(
            embed_dim, embed_dim, device=device, dtype=dtype, kappa=self.kappa, init=init, backend=backend
        )
        self.reset_parameters()

    def _make_parameters(self, add_bias_kv: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Register the parameters of ``torch.nn.MultiheadAttention``: one weight if all widths are E, else three."""
        wide, names = self.embed_dim, ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        one = self.kdim == self.vdim == wide
        shapes = dict(zip(names, ((wide, wide), (wide, self.kdim), (wide, self.vdim)), strict=True))
        wanted: dict[str, tuple[int, ...] | None] = {
            "in_proj_weight": (3 * wide, wide) if one else None,
            **{name: None if one else shape for name, shape in shapes.items()},
            "in_proj_bias": (3 * wide,),
            "bias_k": (1, 1, wide) if add_bias_kv else None,
            "bias_v": (1, 1, wide) if add_bias_kv else None,
        }
        for name, shape in wanted.items():
            made = None if shape is None else nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, made)

    def reset_parameters(self) -> None:
        """Draw the weights so that projections of any width keep unit variance, and set biases to zero.

        With ``init="torch"`` weights are drawn as ``torch.nn.MultiheadAttention`` draws them.
        """
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is None:
                continue
            if self.init == "torch":
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.normal_(weight, std=1 / math.sqrt(self.kappa))
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                nn.init.xavier_normal_(extra)
        self.out_proj.reset_parameters()
        for bias in (self.in_proj_bias, self.out_proj.bias):
            nn.init.zeros_(bias)

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """False, so that ``torch.nn.TransformerEncoder`` does not compute plain attention from the parameters itself."""
        return False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention of ``query`` to ``key`` and ``value``, and the attention weights.

        Args:
            query: (L, E), or batched (L, N, E); (N, L, E) with ``batch_first``.
            key: (S, kdim), batched as ``query``.
            value: (S, vdim), batched as ``query``.
            key_padding_mask: (N, S), (S) without a batch; True excludes a key, numbers are added to its scores.
            need_weights: whether to return the weights too.
            attn_mask: (L, S) or (N * H, L, S); True excludes, numbers are added to the scores.
            average_attn_weights: whether to average the weights over the heads.
            is_causal: declares that ``attn_mask`` is causal, so that a fused kernel need not read it.

        Returns:
            The output, shaped as ``query``, and the weights (N, L, S) or by head (N, H, L, S), without a batch no N; None
            if not needed. There are more than S keys with ``add_bias_kv`` or ``add_zero_attn``.

        Raises:
            TypeError: for an argument that is not a tensor, a nested tensor, a mask of integers, types that differ.
            ValueError: shapes that do not fit, ``is_causal`` without ``attn_mask``.
        """
        given = (query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
        if type(query) not in PLAIN and (step := leaf(self, *given)) is not None:
            return step  # type: ignore[return-value]
        first = self.batch_first
        check_tokens("AffineLikeMultiheadAttention", query, key, value, (self.embed_dim, self.kdim, self.vdim), first)
        batched = query.dim() == 3
        axis = 0 if first or not batched else 1
        asking, answering = query.shape[1 - axis if batched else 0], key.shape[1 - axis if batched else 0]
        batch = query.shape[axis] if batched else None
        scores = (batch, self.num_heads, asking, answering)
        check_masks("AffineLikeMultiheadAttention", attn_mask, key_padding_mask, is_causal, scores)

        q, k, v = self._heads(query, key, value)
        if self.qk_norm:
            if need_weights:  # matrix products would keep copies of operands that are not contiguous by head
                q, k = q.contiguous(), k.contiguous()
            q, k = _at_unit_length(q, k, self.backend)
        more = k.shape[2] - answering
        causal = is_causal and not need_weights and key_padding_mask is None and not more
        mask = None if causal else merged_mask(attn_mask, key_padding_mask, self.num_heads, more, q.dtype)
        dropout = self.dropout if self.training else 0.0
        context, weights = mixed(
            q, k, v, mask, scale=self.score_scale, dropout=dropout, causal=causal, weights=need_weights
        )
        if self.value_path:
            context = self._corrected(context)
        output = self.out_proj(from_heads(context, batched, first))
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        return output, weights

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (N, H, L, d), keys (N, H, S, d) and values (N, H, S, d), including added tokens.

        For the value path, which projects after mixing, the values are the tokens themselves with a one appended,
        (N, 1, S, 1 + vdim): mixed, the one becomes the sum of the weights.
        """
        projected = self._projected((query, key) if self.value_path else (query, key, value))
        q, k, *rest = (as_heads(z, self.num_heads, self.batch_first) for z in projected)
        if rest:
            (v,) = rest
            if self.qk_norm and self.in_proj_weight is not None and query is key is value and torch.is_grad_enabled():
                v = v.clone()  # a view would keep the memory of queries and keys too, which no gradient reads
        else:
            tokens, _, _ = check_operands("AffineLikeMultiheadAttention", value, *self._value_projection())
            v = F.pad(as_source(tokens, self.batch_first), (0, 1), value=1.0)
        if self.bias_k is not None and self.bias_v is not None:
            shape = (1, self.num_heads, 1, self.head_dim)
            k, v = (
                torch.cat([z, extra.to(z.dtype).view(shape).expand(len(z), -1, -1, -1)], 2)
                for z, extra in ((k, self.bias_k), (v, self.bias_v))
            )
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        return q, k, v

    def _projected(self, sources: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the projections of query, key and optionally value; in one product if all are the same tensor."""
        if self.in_proj_weight is not None and all(source is sources[0] for source in sources):
            rows = len(sources) * self.embed_dim
            z = functional.affine_like(sources[0], self.in_proj_weight[:rows], self.in_proj_bias[:rows], self.kappa, backend=self.backend)
            return z.chunk(len(sources), -1)
        weights, biases = self._weights(), self.in_proj_bias.chunk(3)
        parts = zip(sources, weights, biases, strict=False)
        return tuple(functional.affine_like(x, weight, bias, self.kappa, backend=self.backend) for x, weight, bias in parts)

    def _weights(self) -> tuple[Tensor, ...]:
        """Return the weights of queries, keys and values."""
        if self.in_proj_weight is not None:
            return self.in_proj_weight.chunk(3)
        assert self.q_proj_weight is not None and self.k_proj_weight is not None and self.v_proj_weight is not None
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _value_projection(self) -> tuple[Tensor, Tensor]:
        """Return the weight (E, vdim) and bias (E) of the values."""
        return self._weights()[2], self.in_proj_bias.chunk(3)[2]

    def _corrected(self, context: Tensor) -> Tensor:
        """Return the corrected values (N, H, L, d) of mixed tokens (N, H, L, 1 + vdim); zero for a query with all tokens masked."""
        total = context[..., -1:].to(torch.promote_types(context.dtype, torch.float32))
        nothing = total == 0
        share = total.masked_fill(nothing, 1.0).reciprocal()  # wide, since its gradient contains a product of long tokens
        x = (context[..., :-1] * share).to(context.dtype)
        x, weight, bias = check_operands("AffineLikeMultiheadAttention", x, *self._value_projection())
        assert bias is not None
        heads = (self.num_heads, self.head_dim)
        z = corrected(x, weight.view(*heads, self.vdim), bias.view(heads), self.kappa)
        return z.masked_fill(nothing, 0.0)

    def extra_repr(self) -> str:
        """Return the settings for the module's ``repr``."""
        flags = ("add_zero_attn", "batch_first", "value_path", "qk_norm")
        shown = "".join(f", {flag}=True" for flag in flags if getattr(self, flag))
        shown += f", init={self.init!r}" if self.init != "variance-preserving" else ""
        shown += f", backend={self.backend!r}" if self.backend is not None else ""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, dropout={self.dropout:g}{shown}"


def _at_unit_length(q: Tensor, k: Tensor, backend: str | None) -> tuple[Tensor, Tensor]:
    """Return queries (N, H, L, d) and keys (N, H, S, d) scaled to unit length; zeros stay zero."""
    own = (UnitPair, UnitPairReverse)
    eager, traced = chosen_for_rows("AffineLikeMultiheadAttention", backend, "unit.UnitPair", own, q)
    u_q, _, u_k, _ = results(eager, traced, q, k)
    return u_q, u_k
