"""What kernels of a map of a convolution do at far positions.

A position is far where its scale ``f`` is below the setting ``near``: products of its patch may leave the range of the
type in which torch's convolutions add up. There kernels

    take the convolution of the input with the parameters themselves, as it is defined, in float64
    keep what the scale multiplies in a unit of its own, which its type holds
    leave a mark in ``any_far``; the gradient with respect to the parameters is then summed up again in float64

Nothing waits for the host to look at the mark, and no other position changes. Positions are told apart by one
comparison of a number that their kernels hold anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from codegen.ir.program import Convolve, name_of
from codegen.plans.patch_maps import PatchMap
from codegen.schedule.patch_steps import Positions


@dataclass(frozen=True)
class FarPart:
    """What one kernel does at far positions: the values by name, None for what it does not meet."""

    convolved: str | None
    product: str | None
    marks: bool

    @property
    def is_met(self) -> bool:
        """Whether the kernel tells far positions apart at all."""
        return bool(self.convolved or self.product or self.marks)


@dataclass(frozen=True)
class FarPositions:
    """The names that far positions concern in the kernels of a map."""

    scale: str
    product: str
    convolved: str
    source: str
    weight: str
    turned: bool

    def part(self, step: Positions) -> FarPart:
        """Return what a kernel does at far positions; it marks them if it reads the scale, as backward passes do."""
        names = {*step.reads, *(v.name for v in step.outputs)}
        return FarPart(
            self.convolved if self.convolved in names else None,
            self.product if self.product in names else None,
            self.scale in step.reads,
        )

    @property
    def seen(self) -> str:
        """The Python text of the convolution's operands, of W with the axis of the output first."""
        return f"({self.source}, {self.weight}{'.transpose(1, 2)' if self.turned else ''})"

    def arguments(self, step: Positions) -> list[str]:
        """Return the keyword arguments by which a kernel is told what it needs at far positions."""
        part = self.part(step)
        given = {"seen": self.seen if part.convolved else "", "any_far": "any_far" if part.marks else ""}
        return [f"{name}={text}" for name, text in given.items() if text]

    def gradient(self, gradient: str, means: Iterable[str]) -> str:
        """Return of what the gradient with respect to the parameters is summed up again.

        Args:
            gradient: that with respect to the output.
            means: of centred patches the name of the mean of each, which is taken off.
        """
        mean = next(iter(means), None)
        return f"{gradient}, {self.scale}, {self.source}, {mean}, geometry, {self.turned}"


def far_positions(chosen: PatchMap) -> FarPositions:
    """Return the names that far positions concern in a map."""
    plan = chosen.plan
    source = plan.input_names[0]
    found = (
        (i.target.name, *(name_of(o) for o in i.operands if name_of(o) != source))
        for i in plan.forward.instructions
        if isinstance(i, Convolve) and len(i.operands) == 2 and source in map(name_of, i.operands)
    )
    convolved, weight = next(found)
    return FarPositions(plan.scale_name, plan.product, convolved, source, weight, chosen.transposed)
