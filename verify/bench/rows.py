"""What a run of ``affdiv bench`` measured, as data that the table, the plot and the file are all made from."""

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
    """The median of some launches, with the least, the quartiles and how many there were."""

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
        """Half the distance of the quartiles, as a share of the median."""
        return (self.upper - self.lower) / 2 / self.median


@dataclass(frozen=True)
class Row:
    """One provider at one shape; what is a mapping has an entry for forward, backward and both.

    ``ratio`` is to the torch twin, round by round, ``ratio_of_least`` that of the best launch of each: on a machine
    that others use too, the one is what was met and the other what is possible. ``product_share`` and ``copy_share``
    are the products' operations and the least traffic, as shares of what the machine was seen to reach.
    ``host_seconds`` is the cost of both passes at a tiny shape; None for what is compiled for one shape.
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
    """A run: every row, the limits that were measured with them, and why each provider that is missing is."""

    device: str
    dtype: str
    seed: int
    limits: Limits
    rows: tuple[Row, ...]
    missing: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain data, in the schema ``affdiv.bench/1`` once its circumstances are added."""
        return {
            "schema": SCHEMA,
            "device": self.device,
            "dtype": self.dtype,
            "seed": self.seed,
            "limits": asdict(self.limits),
            "rows": [row.to_json() for row in self.rows],
            "missing": self.missing,
        }
