"""Update rules on stacked parameters: one step for all networks of a team, by the rule's formula for each entry.

    sgd        theta' = theta - eta dL/dtheta
    momentum   v' = 0.9 v + dL/dtheta,  theta' = theta - eta v'
    adam       torch.optim.Adam with its default constants
    adamw      torch.optim.AdamW with weight decay 0.001: theta shrinks by 1 - 0.001 eta, then takes adam's step

The rules act entry by entry, so a stacked step is the step of each network. Not supported: rules that need the inputs
of layers (nlms, foof).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-3  # as in the author's companion code; torch's default is 0.01
RULES = ("sgd", "momentum", "adam", "adamw")
_BETAS, _EPS = (0.9, 0.999), 1e-8  # the defaults of torch.optim.Adam


class StackedUpdate:
    """An update rule for stacked parameters; a checkpoint must contain ``state`` and the step.

    Args:
        rule: its name, one of ``RULES``.
        parameters: leaves (S, ...), which ``step`` changes in place.
        learning_rate: eta.
    """

    def __init__(self, rule: str, parameters: list[Tensor], learning_rate: float) -> None:
        self.rule, self.parameters, self.learning_rate = rule, parameters, learning_rate
        moments = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}[rule]
        self.state = [[torch.zeros_like(p) for p in parameters] for _ in range(moments)]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], number: int) -> None:
        """Update the parameters by their gradients; ``number`` counts the steps from 1."""
        if self.rule == "adamw":
            torch._foreach_mul_(self.parameters, 1 - self.learning_rate * WEIGHT_DECAY)
        if self.rule in ("adam", "adamw"):
            self._adam(gradients, number)
            return
        direction = gradients
        if self.rule == "momentum":
            (direction,) = self.state
            torch._foreach_mul_(direction, MOMENTUM)
            torch._foreach_add_(direction, gradients)
        torch._foreach_add_(self.parameters, direction, alpha=-self.learning_rate)

    def _adam(self, gradients: list[Tensor], number: int) -> None:
        first, second = self.state
        torch._foreach_lerp_(first, gradients, 1 - _BETAS[0])
        torch._foreach_mul_(second, _BETAS[1])
        torch._foreach_addcmul_(second, gradients, gradients, 1 - _BETAS[1])
        lengths = torch._foreach_sqrt(second)
        torch._foreach_div_(lengths, math.sqrt(1 - _BETAS[1] ** number))
        torch._foreach_add_(lengths, _EPS)
        torch._foreach_addcdiv_(self.parameters, first, lengths, -self.learning_rate / (1 - _BETAS[0] ** number))
