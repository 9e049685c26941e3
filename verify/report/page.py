"""Fill the report page with a run's results; every number is computed here or earlier, none in the template."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from derive.export.symbols import notation_for
from derive.record import CancellingMap, Step
from verify.checks.record import Check, Status, count
from verify.report import plots
from verify.report.mathematics import Line, lines, mathml
from verify.report.numbers import duration, factor, number, percent
from verify.report.palette import PENS
from verify.run.record import RunResult
from verify.training.layers import Network
from verify.training.probe import Spread
from verify.training.sweep import Choice, SweepResult, mean_test_accuracy

FAMILIES = {
    "derivation": "Every step of the derivation and of the maps, evaluated again at random sizes",
    "identity": "One real SGD step on the module against the derived change of its activation",
    "gradient": "The generated layer against finite differences and a hand-written reference",
    "path": "The generated layer on every path and target, in combinations of settings, dtypes, layouts and edge cases",
    "property": "The stated properties of the solved maps, measured on the generated layers",
}


@dataclass(frozen=True)
class MapView:
    """A cancelling map on the page: its corrected forward map, its computed properties, its steps."""

    name: str
    kind: str
    forward: Markup
    scale: Markup
    properties: tuple[tuple[str, str | Markup], ...]
    assumptions: tuple[str, ...]
    steps: tuple[Line, ...]


@dataclass(frozen=True)
class MethodRow:
    """One method of the training table, over all its reported trials."""

    choice: Choice
    accuracy: float | None
    least: float | None
    most: float | None
    outcomes: tuple[str, ...]
    low: float
    high: float
    ratio: float
    at_end: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Family:
    """The checks of one family, with the largest measured number among them."""

    name: str
    title: str
    checks: tuple[Check, ...]
    counts: dict[str, int]

    @property
    def worst(self) -> float | None:
        """The largest measured number, None if the family measures none."""
        return max((check.measured for check in self.checks if check.measured is not None), default=None)

    @property
    def bound(self) -> float | None:
        """The bound of the check with the largest measured number."""
        return max((check.bound for check in self.checks if check.bound is not None), default=None)

    @property
    def names_equations(self) -> bool:
        """Whether the tested equations must be named because the checks' ids do not show them."""
        return any(check.id != f"{self.name}/{check.equation}" for check in self.checks)

    @property
    def common_reason(self) -> str:
        """The reason text shared by all checks of the family; empty if they differ."""
        reasons = {check.reason for check in self.checks}
        return reasons.pop() if len(reasons) == 1 else ""


def render(result: RunResult) -> str:
    """Return the report as one self-contained HTML document."""
    return environment().get_template("report.html.jinja").render(**context(result))


def context(result: RunResult) -> dict[str, Any]:
    """Return all values that the template uses."""
    rows = [method_row(result.sweep, method) for method in result.sweep.plan.methods]
    steps = lines(result.derivation.steps, result.derivation.layer)
    family = lines(shared_steps(result.maps), result.derivation.layer)
    maps = [map_view(found, {line.id for line in family}) for found in result.maps]
    return {
        "run": result,
        "steps": steps,
        "family_steps": family,
        "maps": maps,
        "families": families(result.checks),
        "failures": [check for check in result.checks if check.status is Status.FAIL],
        "counts": count(list(result.checks)),
        "rows": rows,
        "row": {row.choice.method: row for row in rows},
        "pens": list(PENS.values()),
        "sampling_error": sampling_error(result.sweep, rows),
        "curves": plots.curves(result.sweep),
        "self_factors": plots.self_factors(result.sweep),
        "spreads": plots.spreads(result.sweep),
        "rates": plots.rates(result.sweep),
        "probe_samples": Network.probed,
        "self_factor": mathml(notation_for(result.derivation.layer)(result.derivation.self_factor.expression)),
        "chain": chain(result),
    }


def chain(result: RunResult) -> dict[str, Markup]:
    """Return the equations of the chain diagram, from the forward map to the generated layer."""
    layer = result.derivation.layer
    notation = notation_for(layer)
    found = next(found for found in result.maps if found.kind == "non-normalising")
    corrected = map_view(found)
    return {
        "forward": mathml(f"{notation(layer.output.entry)} = {notation(layer.output.expression)}", display=True),
        "self_factor": mathml(notation(result.derivation.self_factor.expression), display=True),
        "map": corrected.forward,
        "scale": corrected.scale,
        "corrected": mathml(notation(found.self_factor)),
        "module": Markup("ad.{}(n, m)").format(class_name(found)),
    }


def class_name(found: CancellingMap) -> str:
    """Return the name of the generated class of a map."""
    return "".join(word.capitalize() for word in found.name.split("-"))


def shared_steps(maps: tuple[CancellingMap, ...]) -> list[Step]:
    """Return the steps common to all maps: they derive the family, before a condition selects a member."""
    ids = [{step.id for step in found.steps} for found in maps]
    return [step for step in maps[0].steps if all(step.id in own for own in ids)] if maps else []


def map_view(found: CancellingMap, shown: Collection[str] = ()) -> MapView:
    """Return a map for the page, without the steps in ``shown``."""
    notation = notation_for(found.mapped)
    entries = {definition.name: definition for definition in found.mapped.definitions}
    scale = entries["f"]
    inside = scale.expression.xreplace({entries["E"].entry: entries["E"].expression})
    decided = {True: "yes", False: "no", None: "not decided"}
    properties = (
        ("kind", found.kind),
        ("self factor", mathml(notation(found.self_factor))),
        ("residual", mathml(notation(found.residual))),
        ("κ by default", mathml(notation(found.kappa_default))),
        ("scale invariant", decided[found.scale_invariant]),
        ("injective", decided[found.injective]),
        ("singular at zero", decided[found.singular_at_zero]),
        ("standard deviation of weights that keeps the variance", mathml(notation(found.weight_scale))),
    )
    return MapView(
        name=found.name,
        kind=found.kind,
        forward=mathml(f"{notation(found.mapped.output.entry)} = {notation(found.map)}", display=True),
        scale=mathml(f"{notation(scale.entry)} = {notation(inside)}", display=True),
        properties=properties,
        assumptions=found.assumptions,
        steps=tuple(line for line in lines(found.steps, found.mapped) if line.id not in shown),
    )


def families(checks: tuple[Check, ...]) -> list[Family]:
    """Return the checks by family, in the order of ``FAMILIES``."""
    grouped = {name: tuple(check for check in checks if check.family == name) for name in FAMILIES}
    return [Family(name, FAMILIES[name], own, count(list(own))) for name, own in grouped.items() if own]


def method_row(sweep: SweepResult, method: str) -> MethodRow:
    """Return the training table's row of a method."""
    results = sweep.of(method)
    accuracies = [r.test_accuracy for r in results if r.test_accuracy is not None]
    spreads: list[Spread] = [s for r in results for s in r.spreads]
    return MethodRow(
        choice=sweep.choice(method),
        accuracy=mean_test_accuracy(results),
        least=min(accuracies, default=None),
        most=max(accuracies, default=None),
        outcomes=tuple(r.outcome for r in results if r.diverged_at is not None),
        low=min((s.minimum for s in spreads), default=math.nan),
        high=max((s.maximum for s in spreads), default=math.nan),
        ratio=max((s.ratio for s in spreads), default=math.nan),
        at_end=ratios_at_end(spreads),
    )


def ratios_at_end(spreads: list[Spread]) -> tuple[tuple[str, float], ...]:
    """Return each layer's largest over smallest self factor at the last measured step, the worst of the seeds."""
    last = [s for s in spreads if s.step == max(t.step for t in spreads)]
    return tuple(
        (layer, max(s.ratio for s in last if s.layer == layer)) for layer in dict.fromkeys(s.layer for s in last)
    )


def sampling_error(sweep: SweepResult, rows: list[MethodRow]) -> float:
    """Return the binomial standard error of one test accuracy at the methods' mean: the size of random fluctuations."""
    known = [row.accuracy for row in rows if row.accuracy is not None]
    share = sum(known) / len(known) if known else 0.5
    return math.sqrt(share * (1 - share) / sweep.parts[2])


@cache
def environment() -> jinja2.Environment:
    """Return the templates of this folder, with the filters that print numbers; a name not given is an error."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("verify.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"number": number, "factor": factor, "percent": percent, "duration": duration}
    return found
