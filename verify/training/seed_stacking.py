"""A team: trials that differ only in their seed, trained as one stack of networks with joint operations.

Every member is a ``TrialRun`` whose parameters and buffers are slices of the stack: it measures itself as when it
trains alone, while steps are taken on the stack. A member that diverges does not affect the others, because no
operation mixes slices.

The results equal those of the members trained alone, up to rounding. Their last bits depend on the team's size, so the
team is part of a trial's identity, see ``seed_stacks``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verify.training.captured import Take, step_taker
from verify.training.config import TrialConfig
from verify.training.dataset import Dataset, pooled
from verify.training.stacked_update import StackedUpdate
from verify.training.traced import traced_step
from verify.training.trial import TrialResult, TrialRun, steps_per_epoch

_STEPS_UNSEEN = 64  # steps between checks of the losses; a team that diverged as a whole ends then


class TeamRun:
    """A team of trials between two steps.

    Args:
        configs: the settings, equal except for the seed.
        data: the data of each trial, in the order of ``configs``.
        identities: the members' ids, in that order.
        identity: the id of the team.
    """

    def __init__(
        self, configs: Sequence[TrialConfig], data: Sequence[Dataset], identities: Sequence[str], identity: str
    ) -> None:
        self.identity, self.config = identity, configs[0]
        moved: dict[int, Tensor] = {}  # each tensor is moved once, not once per member
        there = [one.to(configs[0].device, moved) for one in data]
        self.members = [TrialRun(*own) for own in zip(configs, there, identities, strict=True)]
        self._x, self._y, self._starts = pooled([member.data.train for member in self.members])
        self.total = self.members[0].total
        self.step = 0
        models = [member.model for member in self.members]
        self.parameters = [_stack(slices) for slices in zip(*(m.parameters() for m in models), strict=True)]
        self.buffers = [_stack(slices) for slices in zip(*(m.buffers() for m in models), strict=True)]
        self.update = StackedUpdate(self.config.update, self.parameters, self.config.learning_rate)
        self._take: Take | None = None
        self._rows: tuple[int, Sequence[Tensor]] = (-1, ())
        self._unseen: list[Tensor] = []

    def advance(self) -> bool:
        """Take one step, and measure if due; return whether a step was taken, False once the team has finished."""
        if self.step == 0 and not self._unseen:
            self._measure()
        if self.step == self.total or not self._alive():
            return False
        self.step += 1
        self._unseen.append(self._learn())
        if self._is_due() or len(self._unseen) == _STEPS_UNSEEN:
            self._measure()
        return True

    def results(self) -> list[TrialResult]:
        """Return the results of the members."""
        self.settle()
        return [member.result() for member in self.members]

    def settle(self) -> None:
        """Check the losses of the steps since the last check, and record the members that diverged."""
        if self._unseen:
            finite = torch.stack(self._unseen).isfinite().cpu()
            first = self.step - len(finite) + 1
            for member, own in zip(self.members, finite.T, strict=True):
                if member.diverged_at is None:
                    member.step = self.step
                    if not bool(own.all()):
                        member.step = member.diverged_at = first + int(own.int().argmin())
        self._unseen = []

    def _alive(self) -> bool:
        return any(member.diverged_at is None for member in self.members)

    def _learn(self) -> Tensor:
        """Take a step on the stack; return the losses (S,) before it."""
        x, y = self._batch()
        if self._take is None:
            step = traced_step(self.members[0].model, self.parameters, self.buffers, x, y)
            self._take = step_taker(step, self.update, self.buffers, x, y)
        return self._take(x, y, self.step)

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Return the batches of this step, (S, B, ...) and (S, B)."""
        train = self.members[0].data.train
        epoch, position = divmod(self.step - 1, steps_per_epoch(self.config, len(train)))
        if self._rows[0] != epoch:
            self._rows = (epoch, self._rows_of(epoch))
        rows = self._rows[1][position]
        x, y = self._x.index_select(0, rows), self._y.index_select(0, rows)
        members = len(self.members)
        return x.view(members, -1, *x.shape[1:]), y.view(members, -1)

    def _rows_of(self, epoch: int) -> Sequence[Tensor]:
        """Return the sample indices (S * B,) of each batch of an epoch, member after member."""
        samples = len(self.members[0].data.train)
        size, whole = min(self.config.batch_size, samples), steps_per_epoch(self.config, samples)
        orders = torch.stack(
            [
                member.data.train.numbers(member.order(epoch)[: size * whole]) + start
                for member, start in zip(self.members, self._starts, strict=True)
            ]
        )
        return orders.view(-1, whole, size).transpose(0, 1).reshape(whole, -1).unbind()

    def _is_due(self) -> bool:
        every = (self.config.evaluate_every, self.config.probe_every)
        return self.step == self.total or any(e and self.step % e == 0 for e in every)

    def _measure(self) -> None:
        self.settle()
        for member in self.members:
            if member.diverged_at is None:
                member.measure()


def _stack(slices: Sequence[Tensor]) -> Tensor:
    """Return tensors of one shape stacked as one; the given tensors become slices of it."""
    whole = torch.stack([one.detach() for one in slices])
    for one, slice_ in zip(slices, whole.unbind(), strict=True):
        one.data = slice_
    return whole
