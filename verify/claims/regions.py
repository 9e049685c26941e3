"""Where a claim holds and where not: a table of findings by experimental setting, and the smallest detectable effects.

The smallest detectable effect is the distance beyond the bound of a statement that these pairs would have detected with
a power of 0.8, given the measured scatter and Holm's correction over all findings of a hypothesis. An open
statement only shows that the effect is not far beyond that.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from scipy import stats

from verify.claims.ledger import Evidence
from verify.hypotheses import Finding
from verify.report.numbers import number
from verify.statistics import Effect, Verdict, smallest_effect

POWER = 0.8
_MARKS = {Verdict.SUPPORTED: "✓", Verdict.CONTRADICTED: "✗", Verdict.INCONCLUSIVE: "–"}


def region_lines(evidence: Sequence[Evidence]) -> list[str]:
    """Return Markdown lines that show where a claim's statements hold; none if no statement was judged."""
    by_name: dict[str, list[Finding]] = defaultdict(list)
    for one in evidence:
        if not one.finding.detail and one.finding.chances is not None:
            by_name[one.finding.hypothesis].append(one.finding)
    lines = [_summary(name, found) for name, found in sorted(by_name.items())]
    return [*lines, *([""] if lines else []), *_map([e.finding for e in evidence if e.finding.place])]


def _summary(name: str, found: Sequence[Finding]) -> str:
    """Return how many statements of a hypothesis got each verdict, and the smallest detectable effects."""
    judged = [finding for finding in found if not finding.reason]
    counts = ", ".join(f"{sum(f.verdict is verdict for f in judged)} {verdict}" for verdict in Verdict)
    limited = f"; {len(found) - len(judged)} more cannot be judged" if len(found) > len(judged) else ""
    return f"* **{name}**: {len(judged)} statements: {counts}{limited}.{_visible(judged)}"


def _visible(judged: Sequence[Finding]) -> str:
    """Return the smallest detectable effects, by unit."""
    units: dict[str, list[float]] = defaultdict(list)
    for finding in judged:
        if finding.effect is not None and finding.effect.n > 1:
            units[finding.measure].append(seen(finding.effect, len(judged)))
    return "".join(
        f" Smallest effect beyond the bound that could have been seen: {number(median(found))} {unit} in the median, "
        f"{number(min(found))} to {number(max(found))}."
        for unit, found in units.items()
    )


def seen(effect: Effect, family: int) -> float:
    """Return the smallest effect beyond the bound that the pairs detect, with ``family`` statements corrected for."""
    half = (effect.high - effect.low) / 2
    deviation = half / float(stats.t.ppf(0.975, effect.n - 1)) * math.sqrt(effect.n)
    return smallest_effect(deviation, effect.n, POWER, family)


def _map(found: Sequence[Finding]) -> list[str]:
    """Return a table of settings (rows) and rival methods (columns): effect, interval and verdict in each cell."""
    if not found:
        return []
    rivals = sorted({finding.against for finding in found})
    places: dict[str, dict[str, list[Finding]]] = defaultdict(lambda: defaultdict(list))
    for finding in found:
        places[finding.place][finding.against].append(finding)
    lines = [
        "The lead over each method, with its 95 % interval: ✓ supported, ✗ contradicted, – open.",
        "",
        f"| where | {' | '.join(rivals)} |",
        f"|---|{'---|' * len(rivals)}",
    ]
    for place, row in places.items():
        lines.append(f"| {place} | {' | '.join(_cell(row.get(rival, ())) for rival in rivals)} |")
    return [*lines, ""]


def _cell(found: Iterable[Finding]) -> str:
    cells = []
    for finding in found:
        effect = finding.effect
        interval = "" if effect is None else f"{number(effect.estimate)} [{number(effect.low)}, {number(effect.high)}] "
        cells.append(f"{interval}{_MARKS[finding.verdict]}")
    return "<br>".join(cells)
