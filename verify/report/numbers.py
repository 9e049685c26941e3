"""Format numbers for readers: few digits, real powers of ten, and 1 + 4 × 10⁻¹⁶ instead of 1.0000000000."""

from __future__ import annotations

import math
import re

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with ``digits`` significant digits; a dash for None."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞" if value > 0 else "not a number"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        shown = f"{value:.{digits}g}"
        return (f"{float(shown):.0f}" if "e" in shown else shown).replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return power if mantissa == "1" else f"{mantissa.replace('-', '−')} × {power}"


def with_powers(text: str) -> str:
    """Return a text with exponents written as powers of ten: ``1.5e+04`` becomes ``1.5 × 10⁴``."""
    return re.sub(
        r"(?<![\w.])(\d+(?:\.\d+)?)e([+-]?\d+)\b",
        lambda m: f"{m[1]} × 10{str(int(m[2])).translate(_SUPERSCRIPTS)}",
        text,
    )


def factor(value: float) -> str:
    """Return a ratio; one close to 1 is written as 1 plus the difference: ``1 + 4 × 10⁻¹⁶``."""
    excess = value - 1
    if excess == 0:
        return "1"
    if abs(excess) < 1e-2:
        return f"1 {'+' if excess > 0 else '−'} {number(abs(excess))}"
    return number(value)


def percent(share: float | None) -> str:
    """Return a share as a percentage with one decimal; a dash for None."""
    return "–" if share is None else f"{round(100 * share, 1) + 0.0:.1f}\u202f%"  # no −0.0


def duration(seconds: float) -> str:
    """Return a duration: ``0.4 s``, ``12 s``, ``1 min 5 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
