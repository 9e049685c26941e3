"""The training step of a stack of seeds as one CUDA graph: captured once, then replayed on copied batches.

Launching hundreds of small kernels takes the host longer than the GPU needs to compute them. A graph repeats the same
launches on the same memory, so every number must be in a tensor. Update rules whose constants change from step to step
(Adam's bias correction) are not captured and take plain steps instead.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from verify.training.stacked_update import StackedUpdate
from verify.training.traced import Step

Take = Callable[[Tensor, Tensor, int], Tensor]  # inputs (S, B, ...), classes (S, B), number of the step -> losses (S,)

CAPTURED_RULES = ("sgd", "momentum")
_WARM_UP = 3  # steps before a capture, in which libraries choose kernels and allocate workspaces


def step_taker(step: Step, update: StackedUpdate, buffers: list[Tensor], x: Tensor, y: Tensor) -> Take:
    """Return the function that takes a step of a stack; ``x`` and ``y`` are a batch with the shapes of all batches.

    On a GPU it replays a graph; if that is impossible, it prints the reason on standard error and takes plain steps.
    """

    def plain(x: Tensor, y: Tensor, number: int) -> Tensor:
        """Take a step without a graph."""
        losses, gradients = step(update.parameters, buffers, x, y)
        update.step(gradients, number)
        return losses

    if not x.is_cuda:
        return plain
    reason = why_not(update.rule)
    if reason is None:
        try:
            return Captured(plain, [*update.parameters, *buffers, *itertools.chain.from_iterable(update.state)], x, y)
        except RuntimeError as problem:
            reason = str(problem).splitlines()[0]
    print(f"note: steps are not captured in a CUDA graph: {reason}", file=sys.stderr)
    return plain


def why_not(rule: str) -> str | None:
    """Return why a rule's steps cannot be captured as a graph, or None if they can."""
    if rule in CAPTURED_RULES:
        return None
    return f"the constants of {rule} change from step to step; {' and '.join(CAPTURED_RULES)} are captured"


class Captured:
    """Training steps that replay one graph.

    Args:
        take: the step to capture.
        state: every tensor that it changes; all of them are restored after the capture.
        x: inputs with the shape of every batch, on the GPU.
        y: classes, likewise.

    Raises:
        RuntimeError: the step does something that cannot be captured, such as reading a value, or memory is short.
    """

    def __init__(self, take: Take, state: list[Tensor], x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.clone(), y.clone()
        before = [one.clone() for one in state]
        try:
            self._warm_up(take)
        finally:
            torch._foreach_copy_(state, before)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):  # records, computes nothing
            self.losses = take(self.x, self.y, 1)

    def __call__(self, x: Tensor, y: Tensor, number: int) -> Tensor:
        """Take a step on a batch; return the losses (S,) before it, as a copy."""
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.losses.clone()

    def _warm_up(self, take: Take) -> None:
        """Take a few steps on a separate stream, which capturing requires."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                take(self.x, self.y, 1)
        torch.cuda.current_stream().wait_stream(stream)
