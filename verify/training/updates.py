"""Update rules: turn the gradients of a batch into a step of the parameters (theory, section 7).

    sgd        theta' = theta - eta dL/dtheta
    momentum   the same on a running sum of gradients, v' = 0.9 v + dL/dtheta
    adam       torch's, with its default constants
    adamw      torch's, with weight decay 0.001
    nlms       every sample's share of the gradient divided by that sample's self factor
    foof       W~' = W~ - eta G^T X~ (X~^T X~ + lambda I)^-1, X~ the rows that [W, b] multiply, G = dL/dz

The last two act on every layer that is linear in its parameters, whatever its forward map: the rows that W and b
multiply are obtained from the layer itself. For a convolution these are all patches, unfolded: (B * places, n + 1)
numbers at once. Embeddings take the plain step. Not supported: layers with products of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

import affine_divergence as ad
from verify.training.layers import Network
from verify.training.rows import as_samples, rows_of, weight_and_bias
from verify.training.stacked_update import RULES, StackedUpdate

DAMPING = 1e-6  # lambda of foof, relative to the mean squared length of the rows


_UNWATCHED = nullcontext()
Rewrite = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


class Update:
    """An update rule for a model.

    Args:
        rule: its name, one of ``config.UPDATES``.
        model: the network to update.
        learning_rate: eta.
    """

    def __init__(self, rule: str, model: Network, learning_rate: float) -> None:
        parameters = list(model.parameters())
        self._parameters, self._rule, self._learning_rate = parameters, rule if rule in RULES else "sgd", learning_rate
        self._rewrite = _REWRITES.get(rule)
        self._layers = model.affine_layers() if self._rewrite else []
        self._seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def watching(self) -> AbstractContextManager[None]:
        """Record each layer's input in the single forward pass inside this context, for the rules that need it."""
        return self._watching() if self._layers else _UNWATCHED

    @contextmanager
    def _watching(self) -> Iterator[None]:
        handles = [layer.register_forward_hook(self._note) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @cached_property
    def _entrywise(self) -> StackedUpdate:
        """The entrywise rule, created on first use, since the members of a team need none."""
        return StackedUpdate(self._rule, list(self._parameters), self._learning_rate)

    @property
    def state(self) -> list[list[Tensor]]:
        """The state for checkpoints: the rule's moments, each for every parameter."""
        return self._entrywise.state

    def step(self, number: int = 1) -> None:
        """Update the parameters by the gradients of the backward pass, and clear the gradients.

        A joint call for all parameters costs a third less than torch's optimisers, which loop over them, in a small
        network. ``number`` counts the steps from 1.
        """
        if self._seen:
            self._rewritten()
        self._entrywise.step([cast(Tensor, parameter.grad) for parameter in self._parameters], number)
        for parameter in self._parameters:
            parameter.grad = None

    def _rewritten(self) -> None:
        """Replace the gradients of the backward pass by the rule's."""
        with torch.no_grad():
            for layer, (x, g) in self._seen.items():
                assert self._rewrite is not None
                weight, bias = self._rewrite(layer, x, g)
                own = weight_and_bias(layer)
                own[0].grad, own[1].grad = weight.reshape(own[0].shape), bias
        self._seen.clear()

    def _note(self, layer: nn.Module, arguments: tuple[Tensor, ...], z: Tensor) -> None:
        x = as_samples(layer, arguments[0].detach())
        z.register_hook(lambda g: self._seen.__setitem__(layer, (x, as_samples(layer, g))))


def samples(z: Tensor) -> Tensor:
    """Return (samples, entries) for (B, entries, ..): every position of a convolution is a sample."""
    return z.reshape(*z.shape[:2], -1).transpose(1, 2).reshape(-1, z.shape[1])


def nlms_gradient(layer: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of W (m, n) and b (m), with each sample's share divided by its self factor."""
    rows, g = samples(rows_of(layer, x)), samples(g)
    both = (g / ad.self_factor(layer, x).to(g.dtype).reshape(-1, 1)).T @ rows
    return both[:, :-1], both[:, -1]


def foof_gradient(layer: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of ``G^T X~ (X~^T X~ + lambda I)^-1`` as gradients of W (m, n) and b (m).

    The smaller of two equivalent systems is solved: ``X~ (X~^T X~ + lambda I)^-1 = (X~ X~^T + lambda I)^-1 X~``.
    """
    rows, g = samples(rows_of(layer, x)), samples(g)
    damping = DAMPING * rows.square().sum() / len(rows)
    if len(rows) <= rows.shape[1]:
        both = torch.linalg.solve(_damped(rows @ rows.T, damping), g).T @ rows
    else:
        both = torch.linalg.solve(_damped(rows.T @ rows, damping), rows.T @ g).T
    return both[:, :-1], both[:, -1]


def _damped(square: Tensor, damping: Tensor) -> Tensor:
    return square + damping * torch.eye(len(square), dtype=square.dtype, device=square.device)


_REWRITES: dict[str, Rewrite] = {"nlms": nlms_gradient, "foof": foof_gradient}
