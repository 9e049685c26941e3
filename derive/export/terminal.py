"""Derivations for a terminal: plain text that fits the width, with formulas broken at signs."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_BREAKS = re.compile(r"(?= [+-] )|(?<=, )|(?<=[^*])(?=\*[^*])|(?<=/)(?=\()")
_DECOMPOSITION = {"activation": "length r becomes", "offset": "constant entry", "scale": "scale"}
ANSWERS = {True: "yes", False: "no", None: "open"}
_NARROWEST, _WIDEST = 40, 110


def line_width() -> int:
    """Return the number of characters that a line may have."""
    return max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((80, 24)).columns))


def formula_lines(formula: str, indent: str, lead: str = "") -> list[str]:
    """Return a formula on as many lines as it needs, after ``lead``; later lines are indented further."""
    room = line_width()
    lines, line, follow = [], indent + lead, indent + " " * len(lead) + "  "
    for part in _BREAKS.split(formula):
        if len(line) + len(part) > room and line.strip() and line != indent + lead:
            lines.append(line.rstrip())
            line, part = follow, part.lstrip()
        line += part
    return [piece for whole in (*lines, line) for piece in _hard(whole, room, follow)]


def _hard(line: str, room: int, follow: str) -> Iterator[str]:
    """Cut a text that has no other place to break."""
    while len(line) > room:
        yield line[:room]
        line = follow + line[room:]
    yield line


def words(text: str, indent: str) -> list[str]:
    """Return prose wrapped to the width."""
    return textwrap.wrap(text, line_width(), initial_indent=indent, subsequent_indent=indent)


def derivation_lines(data: Mapping[str, Any]) -> list[str]:
    """Return a derivation (as JSON data) for a terminal: its result first, then its steps."""
    factor = data["self_factor"]
    depends = "parameter-free" if factor["parameter_free"] else "depends on the parameters"
    order = "exact for any eta" if data["exact_in_eta"] else "to first order in eta"
    lines = [f"{data['layer']}: {data['title']}", ""]
    lines += [f"self factor ({factor['shape']}, {depends}, {order})"]
    lines += formula_lines(factor["text"], "    ")
    lines += ["cross terms", *formula_lines(data["cross_terms"]["text"], "    ")]
    lines += [f"samples: {_names(data['samples'])}; units: {_names(data['units'])}", ""]
    if "parts" in data:
        parts = (f"{k} {p['name']} ({', '.join(p['parameters'])})" for k, p in enumerate(data["parts"], 1))
        lines += [*words(f"parts, for --of N: {', '.join(parts)}", ""), ""]
    return [*lines, *claim_lines(data["claims"]), *step_lines(data["steps"])]


def claim_lines(claims: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the statements of a checked result for a terminal, with verdicts, and the reasons of negative ones."""
    lines: list[str] = []
    for claim in claims:
        lines += words(f"{claim['statement']}  [{claim['status']}]", "    ")
        lines += words(claim["method"], "        ") if claim["status"] in ("refuted", "unverified") else []
    return ["result, checked against the forward map", *lines, ""] if lines else []


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def step_lines(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return steps for a terminal: id and verdict, rule, equation."""
    lines: list[str] = []
    for step in steps:
        checked = step["method"] != "not checked yet"
        lines.append(step["id"] + (f"  [{step['status']}]" if checked else ""))
        if step["status"] == "refuted" or (checked and step["status"] == "unverified"):
            lines += words(step["method"], "    ")
        lines += words(step["rule"], "    ")
        sides = [side for side in (step["before"], step["after"]) if side != step["target"]]
        lines += formula_lines(step["target"], "      ")
        for side in dict.fromkeys(sides):
            lines += formula_lines(side, "      ", "= ")
        lines.append("")
    return lines


def solutions_lines(data: Mapping[str, Any]) -> list[str]:
    """Return cancelling maps (as JSON data) for a terminal, and the kinds that do not exist."""
    lines = [f"{data['layer']}: {data['title']}", ""]
    lines += ["self factor", *formula_lines(data["self_factor"]["text"], "    "), ""]
    for found in data["solutions"]:
        lines += [f"{found['layer']}: {found['name']} ({found['kind']})", *_map_lines(found), ""]
    for refusal in data["refusals"]:
        kind = "cancelling" if refusal["kind"] == "any" else refusal["kind"]
        lines += [f"no {kind} map", *words(refusal["reason"], "    "), ""]
    return lines


def _map_lines(found: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for definition in found["intermediates"]:
        lines += formula_lines(definition["text"], "    ", f"{definition['name']} = ")
    lines += formula_lines(found["map"]["text"], "    ", "map = ")
    facts = {
        "self factor": found["self_factor"]["text"],
        "residual": found["residual"]["text"],
        "kappa": f"{found['kappa']} by default",
        **{name.replace("_", " "): _answer(known) for name, known in found["established"].items()},
        "at zero": found["limit_zero"],
        "at infinity": found["limit_infinity"],
        "weight scale": found["weight_scale"]["text"],
        "angle": found["angle"]["text"] if found["angle"] else "none",
        **{_DECOMPOSITION.get(name, name): part["text"] for name, part in found["decomposition"].items()},
        "assumes": "; ".join(found["assumptions"]),
    }
    for name, value in facts.items():
        lines += textwrap.wrap(value, line_width(), initial_indent=f"    {name:<17}", subsequent_indent=" " * 21)
    return lines


def _answer(known: Mapping[str, Any]) -> str:
    """Return a property in words: the answer, how it was established, and the reason."""
    return f"{ANSWERS[known['value']]} ({known['basis']}: {known['reason']})"


def table_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the table of layers for a terminal: two lines per layer, the second with its self factor."""
    lines = [_row("layer", "self factor", "cancelled by"), ""]
    for row in rows:
        factor = row["self_factor"]
        if factor is None:
            lines.append(_row(row["name"], "no parameters", "-"))
            continue
        shape = factor["shape"] + ("" if factor["parameter_free"] else ", of parameters")
        lines.append(_row(row["name"], shape, _kinds(row["maps"], row["generated"])))
        room = line_width() - 4
        lines.append("    " + (factor["text"] if len(factor["text"]) <= room else factor["text"][: room - 3] + "..."))
    return [
        *lines,
        "",
        "* affine_divergence has generated code for the map",
        "+ it has code for the parts of the layer",
    ]


def _kinds(maps: Iterable[Mapping[str, str]], generated: Iterable[str]) -> str:
    """Return the names of maps, each once: with a star if there is code for it, with a plus if there is for parts."""
    marks: dict[str, set[str]] = {}
    for found in maps:
        seen = {"*": found["id"] in generated, "+": bool(found["part"])}
        marks.setdefault(found["name"], set()).update(mark for mark, holds in seen.items() if holds)
    return ", ".join(name + "".join(sorted(found)) for name, found in marks.items()) or "none"


def _row(name: str, shape: str, maps: str) -> str:
    return f"{name:<26}{shape:<24}{maps}".rstrip()
