"""Small models of every judged kind, each with a batch and a loss, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import affine_divergence as ad

DOUBLE = torch.float64


class Attend(nn.Module):
    """Torch's attention on tokens, on itself or from another width."""

    def __init__(self, **settings):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **settings)
        self.cross = "kdim" in settings

    def forward(self, x):
        other = torch.cat([x, x[..., :1]], -1) if self.cross else x
        return self.attention(x, other, other, need_weights=False)[0]


class Conv1D(nn.Module):
    """The affine map of transformers, whose weight is stored transposed."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.nf)


LAYERS = {
    "Linear": (lambda: nn.Linear(3, 4), (5, 3)),
    "Linear without bias": (lambda: nn.Linear(3, 4, bias=False), (5, 3)),
    "Linear on tokens": (lambda: nn.Linear(3, 4), (2, 3, 3)),
    "Conv1D": (lambda: Conv1D(4, 3), (2, 3, 3)),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 2, 5)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(1, 2)), (2, 2, 4, 5)),
    "Conv2d same, circular": (lambda: nn.Conv2d(2, 2, 3, padding="same", padding_mode="circular"), (2, 2, 4, 3)),
    "Conv2d in groups": (lambda: nn.Conv2d(4, 6, 2, groups=2, bias=False), (2, 4, 3, 3)),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2, padding=1), (2, 1, 2, 1, 2)),
    "ConvTranspose1d": (
        lambda: nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 2, 3),
    ),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 2, 2, stride=(3, 1), dilation=2, padding=(1, 0)), (2, 2, 2, 2)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(1, 2, 2, bias=False), (2, 1, 2, 1, 2)),
    "Embedding": (lambda: nn.Embedding(5, 3, padding_idx=2), (2, 4)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 3, mode="sum", padding_idx=2), (3, 4)),
    "EmbeddingBag, mean": (lambda: nn.EmbeddingBag(5, 3, mode="mean"), (3, 4)),
    "AffineLike": (lambda: ad.AffineLike(3, 4, kappa=1.7), (5, 3)),
    "NormLike": (lambda: ad.NormLike(3, 4), (5, 3)),
    "NormLike without bias, centred": (lambda: ad.NormLike(4, 3, bias=False, center=True), (5, 4)),
    "PatchNormConv2d": (lambda: ad.PatchNormConv2d(2, 3, 2, padding=1, kappa=0.5), (2, 2, 2, 3)),
    "PatchNormConv1d norm-like": (lambda: ad.PatchNormConv1d(2, 2, 3, form="norm-like"), (2, 2, 5)),
    "PatchNormConvTranspose1d": (lambda: ad.PatchNormConvTranspose1d(2, 2, 3, stride=2), (2, 2, 3)),
}


def single(name):
    """Return one layer of the table with random parameters, an input for it, and a loss that is not symmetric."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    module = make().double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randint(0, 5, shape) if name.startswith("Embedding") else torch.randn(shape, dtype=DOUBLE)
    return module, x, lambda z: (z.sin() * torch.linspace(0.5, 2, z.numel(), dtype=DOUBLE).view_as(z)).sum()


class Tied(nn.Module):
    """An embedding whose weight is also the last layer's; one layer is used twice, one without effect, one never."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.twice, self.vain, self.never = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.shift = nn.Parameter(torch.zeros(4))

    def forward(self, t):
        x = self.twice(self.twice(self.embedding(t)).tanh()).tanh() + self.shift
        self.vain(x)
        return self.head(self.norm(x))


def tied():
    """Return the tied model, tokens and cross-entropy against the tokens themselves."""
    torch.manual_seed(1)
    t = torch.randint(0, 7, (3, 4))
    return Tied().double(), t, lambda z, target: F.cross_entropy(z.flatten(0, 1), target.flatten())


def network():
    """Return a network with batch statistics, dropout and an in-place activation, in training mode and float32."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    return model, (torch.randn(6, 1, 8, 8), torch.randint(0, 3, (6,))), F.cross_entropy
