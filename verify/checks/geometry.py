"""Random geometries of convolutions: filter, stride, padding, dilation and image size for each spatial axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from verify.checks.cases import Draw
from verify.checks.references import patches, spaced

LETTERS = {1: ("",), 2: ("h", "w"), 3: ("d", "h", "w")}
_MOST_POSITIONS = 12
_ATTEMPTS = 200


@dataclass(frozen=True)
class Geometry:
    """Groups, channels per group, and for each axis: kernel, stride, padding, dilation, length, extra length."""

    groups: int
    channels: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    length: tuple[int, ...]
    extra: tuple[int, ...]
    transposed: bool = False

    @property
    def positions(self) -> tuple[int, ...]:
        """The lengths of the output; an entry below 1 means that the output is empty."""
        each = zip(self.kernel, self.stride, self.padding, self.dilation, self.length, self.extra, strict=True)
        if self.transposed:
            return tuple((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for k, s, p, d, n, e in each)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for k, s, p, d, n, _ in each)

    def sizes(self, batch: int, letters: tuple[str, ...]) -> dict[str, int]:
        """Return every size of the derivation by name; axes that this geometry lacks have length one."""
        found = {"B": batch, "G": self.groups, "C": self.channels, "O": self.outputs}
        numbers = {
            "K": self.kernel,
            "L": self.length,
            "Q" if self.transposed else "P": self.positions,
            "stride": self.stride,
            "dilation": self.dilation,
            "padding": self.padding,
        }
        for stem, values in numbers.items():
            missing = (0 if stem == "padding" else 1,) * (len(letters) - len(values))
            found |= {f"{stem}{a}": v for a, v in zip(letters, (*values, *missing), strict=True)}
        return found

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Return the patches at all output positions as rows (B, G, *positions, C * K)."""
        if not self.transposed:
            return patches(x, self.kernel, self.stride, self.padding, self.dilation)
        ends = [d * (k - 1) - p for d, k, p in zip(self.dilation, self.kernel, self.padding, strict=True)]
        return patches(spaced(x, self.stride, self.extra), self.kernel, [1] * len(self.kernel), ends, self.dilation)

    def positions_seen(self) -> list[bool]:
        """Return for each output position whether its patch contains an entry of the image."""
        seen: list[bool] = self.rows(torch.ones(1, 1, 1, *self.length)).any(-1).flatten().tolist()
        return seen


def draw_geometry(random: Draw, axes: int, *, transposed: bool, seen: bool, channels: int, grouped: bool) -> Geometry:
    """Return a random geometry with ``channels`` channels or more; with ``seen`` no patch is all padding."""
    for _ in range(_ATTEMPTS):
        found = _draw(random, axes, transposed, channels, grouped)
        space = found.positions
        if min(space) < 1 or torch.Size(space).numel() > _MOST_POSITIONS:
            continue
        if (all if seen else any)(found.positions_seen()):
            return found
    raise AssertionError("no valid geometry was drawn; allow smaller ones")


def _draw(random: Draw, axes: int, transposed: bool, channels: int, grouped: bool) -> Geometry:
    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(random.whole(low, high) for _ in range(axes))

    kernel, stride, dilation = each(1, 3 if axes < 3 else 2), each(1, 2), each(1, 2)
    return Geometry(
        groups=random.whole(1, 2) if grouped else 1,
        channels=random.whole(channels, channels + 1),
        outputs=random.whole(1, 2),
        kernel=kernel,
        stride=stride,
        padding=tuple(random.whole(0, k) for k in kernel),
        dilation=dilation,
        length=each(1 if transposed else 2, 3 if transposed or axes == 3 else 5),
        extra=tuple(random.whole(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
        if transposed
        else (0,) * axes,
        transposed=transposed,
    )
