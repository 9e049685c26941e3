"""A small causal transformer on characters, whose affine maps use one method.

    characters -> token + position -> ``depth`` blocks -> scores of the next character
    block      x + output(attention(query(x), key(x), value(x))), then x + down(activation(up(x)))

    method                  query, key, value, up, last     output, down
    none, qk-norm           Linear                          Linear
    layer-norm, rms-norm    the normaliser, then Linear     Linear, as in pre-norm transformers
    norm-like, affine-like  NormLike, AffineLike            the same

``qk-norm`` normalises queries and keys to unit length in each head. The projections of attention are separate layers,
so that each is probed by itself; with ``affine-like`` they compute the same as ``AffineLikeMultiheadAttention``. The
embeddings look up rows, so their self factor is constant. Not supported: dropout, texts longer than the context.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from verify.training.initialise import mean_square
from verify.training.layers import ACTIVATIONS, Network, make_layer

_HEAD = 16  # smallest width of a head
_WIDER = 4  # expansion factor of the MLP
_IN_FRONT = ("layer-norm", "rms-norm")


class Block(nn.Module):
    """Attention, then an MLP, each with a skip connection: (B, tokens, width) -> the same shape."""

    def __init__(self, *, method: str, width: int, activation: str) -> None:
        super().__init__()
        method, self.unit = ("none", True) if method == "qk-norm" else (method, False)
        behind = "none" if method in _IN_FRONT else method
        self.heads = heads(width)
        self.query, self.key, self.value = (make_layer(method, width, width) for _ in range(3))
        self.output = make_layer(behind, width, width)
        self.up, self.down = make_layer(method, width, _WIDER * width), make_layer(behind, _WIDER * width, width)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Return x with both parts added; no token depends on later ones."""
        x = x + self.attend(x)
        return x + cast(Tensor, self.down(self.activation(self.up(x))))

    def attend(self, x: Tensor) -> Tensor:
        """Return the causal self-attention of tokens x (B, tokens, width)."""
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scale = 1 / math.sqrt(q.shape[-1])
        if self.unit:
            q, k, scale = normalize(q, dim=-1), normalize(k, dim=-1), 1 / scale
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return cast(Tensor, self.output(mixed.transpose(1, 2).flatten(2)))

    def affine_maps(self) -> dict[str, tuple[nn.Module, float]]:
        """Return every affine map by name, with E[x^2] of its input: 1 for the residual stream, ignoring mixing."""
        ones = {name: (getattr(self, name), 1.0) for name in ("query", "key", "value", "output", "up")}
        return {**ones, "down": (self.down, mean_square(self.activation))}


class Transformer(Network):
    """Embeddings, ``depth`` blocks, and a layer with one unit per character.

    Args:
        context: the number of characters before the last predicted one.
        characters: the number of distinct characters.
        method: the kind of its affine maps.
        width: the width of a token.
        depth: the number of blocks.
        activation: the name of the activation in each block's MLP.
    """

    chunk, probed, evaluated = 64, 4, 512

    def __init__(self, context: int, characters: int, *, method: str, width: int, depth: int, activation: str) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(method=method, width=width, activation=activation) for _ in range(depth))
        self.last = make_layer("none" if method == "qk-norm" else method, width, characters)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of every next character: ids (B, tokens) -> (B, tokens, characters)."""
        z = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            z = block(z)
        return cast(Tensor, self.last(z))

    def measured_layers(self) -> dict[str, nn.Module]:
        """Return every affine map by name, block by block."""
        return {name: layer for name, (layer, _) in self._maps().items()}

    def second_moments(self) -> list[float]:
        """Return E[x^2] of each affine map's input."""
        return [moment for _, moment in self._maps().values()]

    def embeddings(self) -> list[nn.Embedding]:
        """Return the embeddings, whose sum is the first block's input."""
        return [self.tokens, self.positions]

    def _maps(self) -> dict[str, tuple[nn.Module, float]]:
        found = {
            f"block {number} {name}": layer
            for number, block in enumerate(self.blocks, start=1)
            for name, layer in cast(Block, block).affine_maps().items()
        }
        return {**found, "last": (self.last, 1.0)}


def heads(width: int) -> int:
    """Return the largest number of heads that divides the width with heads at least 16 wide, else one."""
    return max(count for count in range(1, max(1, width // _HEAD) + 1) if width % count == 0)
