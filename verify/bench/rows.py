"""The results of ``affdiv bench`` as data, from which the table, the plot and the file are made."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from verify.bench.limits import Limits

SCHEMA = "affdiv.bench/1"
PARTS = ("forward", "backward", "both")


@dataclass(frozen=True)
class Spread:
    """The median of some launches, with their minimum, quartiles and number."""

    median: float
    least: float
    lower: float
    upper: float
    launches: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of two or more values."""
        lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, min(values), lower, upper, len(values))

    @property
    def width(self) -> float:
        """Half the interquartile range, as a share of the median."""
        return (self.upper - self.lower) / 2 / self.median


@dataclass(frozen=True)
class Row:
    """One provider at one shape; the mappings have the keys forward, backward and both.

    ``ratio`` is the time over that of torch's layer, round by round; ``ratio_of_least`` divides the best launches. On a
    shared machine the first shows the speed under load, the second the speed that is possible. ``product_share`` and
    ``copy_share`` are the achieved rates of operations and of minimum traffic, as shares of the measured peaks.
    ``host_seconds`` is the time of both passes at a tiny shape; None for modules compiled for one shape.
    """

    shape: str
    provider: str
    ours: bool
    seconds: dict[str, Spread]
    ratio: dict[str, Spread]
    ratio_of_least: dict[str, float]
    product_share: dict[str, float]
    copy_share: dict[str, float]
    saved_bytes: int
    peak_bytes: int
    host_seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Speed:
    """A run: every row, the machine's limits measured with them, and for each missing provider the reason."""

    device: str
    dtype: str
    seed: int
    limits: Limits
    rows: tuple[Row, ...]
    missing: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain data: the schema ``affdiv.bench/1`` without the machine and versions."""
        return {
            "schema": SCHEMA,
            "device": self.device,
            "dtype": self.dtype,
            "seed": self.seed,
            "limits": asdict(self.limits),
            "rows": [row.to_json() for row in self.rows],
            "missing": self.missing,
        }
