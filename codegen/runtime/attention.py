"""Operations on attention heads: views, masks, scores and mixing.

Axes: N sequences, H heads, L query tokens, S key tokens, E features, d features of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def as_heads(tokens: Tensor, heads: int, batch_first: bool) -> Tensor:
    """Return tokens (N, L, E), (L, N, E) or (L, E) as a view (N, H, L, d)."""
    split = tokens.reshape(*tokens.shape[:-1], heads, tokens.shape[-1] // heads)
    if split.dim() == 3:
        return split.transpose(0, 1).unsqueeze(0)
    return split.transpose(1, 2) if batch_first else split.permute(1, 2, 0, 3)


def from_heads(context: Tensor, batched: bool, batch_first: bool) -> Tensor:
    """Return heads (N, H, L, d) concatenated: (N, L, E), (L, N, E) or, not batched, (L, E)."""
    if not batched:
        return context.squeeze(0).transpose(0, 1).flatten(-2)
    return context.transpose(1, 2).flatten(-2) if batch_first else context.permute(2, 0, 1, 3).flatten(-2)


def as_source(tokens: Tensor, batch_first: bool) -> Tensor:
    """Return tokens (N, S, n), (S, N, n) or (S, n) as a view (N, 1, S, n): the same for every head."""
    if tokens.dim() == 2:
        return tokens.unsqueeze(0).unsqueeze(0)
    return (tokens if batch_first else tokens.transpose(0, 1)).unsqueeze(1)


def merged_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, heads: int, more: int, dtype: torch.dtype
) -> Tensor | None:
    """Return both masks as one to add to scores, (N or 1, H or 1, L or 1, S + more); None if nothing is masked.

    ``attn_mask`` (L, S) or (N * H, L, S), ``key_padding_mask`` (N, S) or (S). Tokens that are appended to the keys are
    never masked.
    """
    parts = []
    if attn_mask is not None:
        added = _added(attn_mask, dtype)
        stack = (1, 1) if added.dim() == 2 else (added.shape[0] // heads, heads)
        parts.append(added.reshape(*stack, *added.shape[-2:]))
    if key_padding_mask is not None:
        added = _added(key_padding_mask, dtype)
        parts.append(added[:, None, None] if added.dim() == 2 else added[None, None, None])
    if not parts:
        return None
    mask = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return F.pad(mask, (0, more))


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to scores; a boolean mask becomes minus infinity where it is true."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


def mixed(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float, dropout: float, causal: bool, weights: bool
) -> tuple[Tensor, Tensor | None]:
    """Return ``v`` (N, H or 1, S, m) mixed by the attention of ``q`` (N, H, L, d) to ``k`` (N, H, S, d); and weights.

    Without ``weights``, torch's fused kernels are used, which never store them (None). A token with all keys masked
    gets zero from these kernels, and NaN with weights, as in ``torch.nn.MultiheadAttention``. A ``scale`` below 1
    multiplies the queries, one above 1 the scores, to avoid overflow and underflow.
    """
    if not weights:
        v = v.expand(-1, q.shape[1], -1, -1)
        z = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, is_causal=causal, scale=scale)
        return z, None
    keys = k.transpose(-2, -1)
    scores = torch.matmul(q, keys) * scale if scale > 1 else torch.matmul(q * scale, keys)
    chances = torch.softmax(scores if mask is None else scores + mask, -1)
    chances = F.dropout(chances, dropout)
    return torch.matmul(chances, v), chances
