"""The verification table: outcomes by layer and route, then how close each route came to its bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from derive.export.blocks import Block, Code, Heading, Items, Paragraph, Prose, Table, prose
from verify.report.numbers import number

Check = Mapping[str, Any]
_ROUTES = {
    "derivation": "every step again",
    "identity": "the self factor in real SGD steps",
    "gradient": "finite differences and hand-written references, each dtype and backend",
    "property": "the stated properties of the solved maps",
    "path": "every way to call a layer",
}


def check_blocks(checks: Sequence[Check]) -> list[Block]:
    """Return the section on verification."""
    routes = tuple(prose("{}: {}.", Code(route), says) for route, says in _ROUTES.items())
    return [
        Heading(1, ("Verification",)),
        Paragraph(
            prose(
                "The generated layers are checked against the derivations in five ways, which share expressions and "
                "random numbers but no code that computes a result. {} repeats them.",
                Code("affdiv verify"),
            )
        ),
        Items(routes),
        _by_layer(checks),
        Paragraph(("How close each route came to its bound, by backend and dtype:",), leads=True),
        _by_route(checks),
        *_skips(checks),
    ]


def _route(check: Check) -> str:
    return str(check["id"]).partition("/")[0]


def _by_layer(checks: Sequence[Check]) -> Table:
    layers = list(dict.fromkeys(check["layer"] for check in checks))
    header = (("layer",), *((route,) for route in _ROUTES))
    rows = []
    for layer in layers:
        own = [check for check in checks if check["layer"] == layer]
        cells = (_outcome([check for check in own if _route(check) == route]) for route in _ROUTES)
        rows.append(((layer,), *((cell,) for cell in cells)))
    return Table(header, tuple(rows), (0.25, *(0.13,) * len(_ROUTES)))


def _outcome(checks: Sequence[Check]) -> str:
    """Return how many checks passed, failed and were skipped."""
    counts = Counter(check["status"] for check in checks)
    others = [f"{counts[status]} {word}" for status, word in (("fail", "failed"), ("skipped", "skipped"))]
    shown = [text for text in (f"{counts['pass']} pass", *others) if not text.startswith("0 ")]
    return ", ".join(shown) or "–"


def _by_route(checks: Sequence[Check]) -> Table:
    groups: dict[tuple[str, str, str], list[Check]] = {}
    for check in checks:
        groups.setdefault((_route(check), check["backend"], check["dtype"]), []).append(check)
    header = (("route",), ("computed by",), ("type",), ("outcome",), ("worst",), ("bound",), ("of",))
    rows = tuple(_closest(key, own) for key, own in groups.items())
    return Table(header, rows, (0.1, 0.11, 0.1, 0.13, 0.11, 0.1, 0.24))


def _closest(key: tuple[str, str, str], checks: Sequence[Check]) -> tuple[Prose, ...]:
    measured = [check for check in checks if check["bound"] and check["measured"] is not None]
    worst = max(measured, key=lambda check: check["measured"] / check["bound"], default=None)
    figures = ("–", "–", "–")
    if worst is not None:
        figures = (number(worst["measured"], 2), number(worst["bound"]), str(worst["id"]).partition("/")[2])
    return tuple((text,) for text in (*key, _outcome(checks), *figures))


def _skips(checks: Sequence[Check]) -> list[Block]:
    reasons = Counter(check["reason"] for check in checks if check["status"] == "skipped")
    failures = [check for check in checks if check["status"] == "fail"]
    blocks: list[Block] = []
    if reasons:
        entries = tuple((f"{count} checks: {reason}.",) for reason, count in reasons.items())
        blocks += [Paragraph(("Skipped on the machine that wrote this document:",), leads=True), Items(entries)]
    if failures:
        named: tuple[Prose, ...] = tuple((Code(check["id"]), f": {check['reason']}.") for check in failures)
        blocks += [Paragraph(("Failed:",), leads=True), Items(named)]
    return blocks
