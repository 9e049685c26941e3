"""Train a small GPT on characters, plain and with corrected projections, and watch the self factors of its layers.

    python examples/nano_gpt.py            about a minute on two cores
    python examples/nano_gpt.py --quick    seconds

The corrected layers move activations by another factor, so each model uses the best rate of its own grid. With one seed
and one short run, the difference of the losses says nothing about the methods.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

import affine_divergence as ad
import verify
from verify.training.text_files import BUILT_IN

CONTEXT, WIDTH, HEADS, LAYERS = 32, 48, 4, 2


class Block(nn.Module):
    """Causal attention and a feed-forward part, each applied to the normalised stream and added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query_key_value, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream (batch, tokens, WIDTH) after the block."""
        batch, tokens, _ = x.shape
        parts = self.query_key_value(self.first(x)).view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        context = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.projection(context.transpose(1, 2).reshape(batch, tokens, WIDTH))
        return x + self.narrow(functional.gelu(self.wide(self.second(x))))


class NanoGPT(nn.Module):
    """Characters in, logits of the next character out: (batch, tokens) -> (batch, tokens, letters)."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.head = nn.Linear(WIDTH, letters)

    def forward(self, letters: Tensor) -> Tensor:
        """Return the logits."""
        places = self.place(torch.arange(letters.shape[1]))
        return self.head(self.blocks(self.letter(letters) + places))


def text() -> tuple[Tensor, int]:
    """Return the bundled text as numbers of characters, and how many characters there are."""
    content = (BUILT_IN / "declaration.txt").read_text(encoding="utf-8")
    known = sorted(set(content))
    return torch.tensor([known.index(letter) for letter in content]), len(known)


def train(corrected: bool, rate: float, steps: int) -> tuple[float, float]:
    """Train one model and return its loss on the last tenth of the text, and the largest ratio of self factors.

    The ratio is the largest over the smallest self factor of a layer's tokens at the last measured step: 1 is ideal.
    """
    torch.manual_seed(0)
    data, letters = text()
    known, unknown = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    model = NanoGPT(letters)
    if corrected:
        ad.convert(model, init="variance-preserving")
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    with verify.watch(model, every=max(1, steps // 4)) as watched:
        for _ in range(steps):
            x, y = batch(known)
            loss = functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    layers = watched.readings[-1].layers
    ratio = max(spread.ratio for name, spread in layers.items() if name.startswith("blocks") or name == "head")
    model.eval()
    with torch.no_grad():
        x, y = batch(unknown, 128)
        return functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).item(), ratio


def batch(data: Tensor, size: int = 16) -> tuple[Tensor, Tensor]:
    """Return random sections of the text and the same sections shifted by one character, both (size, CONTEXT)."""
    starts = torch.randint(len(data) - CONTEXT - 1, (size,))
    cut = torch.stack([data[s : s + CONTEXT + 1] for s in starts])
    return cut[:, :-1], cut[:, 1:]


def main() -> None:
    """Train both models at each rate of their grids and print the best of each."""
    parser = argparse.ArgumentParser(description="Train a small GPT, plain and corrected.")
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    steps = 8 if parser.parse_args().quick else 300
    for corrected, rates in ((False, (0.03, 0.1, 0.3)), (True, (0.1, 0.3, 1.0))):
        found = [(*train(corrected, rate, steps), rate) for rate in rates[: 1 if steps < 50 else None]]
        loss, ratio, rate = min(found, key=lambda f: f[0] if math.isfinite(f[0]) else math.inf)
        name = "corrected" if corrected else "plain"
        print(
            f"{name}: loss {loss:.2f} at rate {rate:g}; largest / smallest self factor in the worst layer {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
