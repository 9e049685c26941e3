"""Test the stated behaviour of a cancelling map as its inputs are scaled: limits, invariance, bounds, injectivity.

Evaluation cannot prove a limit or a bound. It searches for counterexamples: a map that does not approach the stated
limit as the inputs shrink or grow, an output that changes but should not, two inputs with the same output. A statement
of existence (a map is *not* scale invariant) needs a witness.

    coefficients    the factor of each parameter's entries, in the map (m) and in the layer itself (o)
    value           m -> factor o           length    m -> factor o/||o||          direction    ||m|| -> factor
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from derive.evaluation.agreement import shown
from derive.evaluation.case import Case
from derive.evaluation.evaluate import evaluate
from derive.evaluation.findings import Refuted, Statement, over
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Key
from derive.evaluation.reference import Place, Reference

if TYPE_CHECKING:
    from derive.record import CancellingMap, Limit

_NEAR, _FAR = (Decimal("1e-3"), Decimal("1e-4")), (Decimal("1e6"), Decimal("1e7"))
_LESS_FAR = Decimal(100), Decimal(1000)  # the range of exponentials ends here
_SMALL = Decimal("1e-9")
_PLACES = 2
Told = TypeVar("Told")


def behaviour_statements(found: CancellingMap, prefix: str) -> list[Statement]:
    """Return the statements on a map's limits and properties that evaluation can refute."""
    about = _Behaviour(found)
    named = [about.tends("zero", found.zero, _NEAR), about.tends("infinity", found.infinity, _FAR)]
    named += [about.weight_scale()] if about.inputs else []
    named += [about.property(p.name, p.value, p.basis) for p in found.properties]
    return [replace(s, name=f"{prefix}-{s.name}") for s in named if s is not None]


@dataclass(frozen=True)
class _Scaled:
    """A map and its layer at scaled inputs."""

    mapped: Reference
    layer: Reference

    def coefficients(self, place: Place, names: Iterable[str]) -> list[tuple[Any, Any]]:
        """Return the factors of some parameters' entries, in the map and in the layer."""
        ours, theirs = self.mapped.slopes(place), self.layer.slopes(place)
        keys = sorted(key for key in {**ours, **theirs} if key[0] in names)
        return [(ours.get(key, 0), theirs.get(key, 0)) for key in keys]

    def rest(self, place: Place) -> Any:
        """Return the part of the map's output that depends on no parameter."""
        slopes = self.mapped.slopes(place)
        return self.mapped.value(place) - sum(slope * self.mapped.entry(key) for key, slope in slopes.items())

    def read(self, expression: Any, case: Case, place: Place) -> Any:
        """Return the value here of an expression of the layer's tensors."""
        at = dict(zip(case.indices, place, strict=True))
        return evaluate(expression, at, self.layer.plain)


class _Behaviour:
    """The statements on the behaviour of one map."""

    def __init__(self, found: CancellingMap) -> None:
        self.found = found
        self.inputs = tuple(t.name for t in found.layer.inputs if t.values is None)

    def scaled(self, case: Case, by: Any, salt: str = "") -> _Scaled:
        """Return the map with all real inputs multiplied by a number; a salt gives other inputs."""
        given: dict[Key, Any] = {key: jet for key, jet in case.plain.memory.items() if not key[1]}
        salts, stretch = (dict.fromkeys(self.inputs, salt) if salt else {}), dict.fromkeys(self.inputs, by)

        def reference(layer: Any) -> Reference:
            """Return the reference of a layer at this point."""
            scope = {d.base: d for d in layer.definitions}
            point = replace(
                case.plain, scope=scope, salts=salts, stretch=stretch, memory=dict(given), kept={}, nudges={}
            )
            return Reference.at(layer, point)

        return _Scaled(reference(self.found.mapped), reference(self.found.layer))

    def tends(self, name: str, limit: Limit, scales: tuple[Decimal, Decimal]) -> Statement | None:
        """Return the statement of a limit: the map approaches it as the inputs are scaled further."""
        ways: dict[str, Callable[[_Scaled, Place, Case, Limit], Any]] = {
            "value": _off_value,
            "length": _off_length,
            "direction": _off_direction,
        }
        if limit.kind == "unbounded":
            words = f"the map grows without bound towards {name}"
            return Statement(f"limit-{name}", words, _as_far_as_it_goes(self._growing, scales), basis="derived")
        if limit.kind not in ways:
            return None
        way = ways[limit.kind]

        def look(case: Case, scales: tuple[Decimal, Decimal]) -> bool:
            """Compare both scales at every place; return whether any place had a value."""
            pair = [self.scaled(case, scale) for scale in scales]

            def of(place: Place) -> None:
                """Raise ``Refuted`` where the distance from the stated limit does not shrink."""
                if pair[0].read(limit.where, case, place) <= 0:
                    return
                first, second = (way(scaled, place, case, limit) for scaled in pair)
                if second > _SMALL and second > first * Decimal("0.6"):
                    words = f"off by {shown(first)} at {shown(scales[0])} and by {shown(second)} at {shown(scales[1])}"
                    raise Refuted(f"the map does not come nearer to its limit: {words} times the input")

            return over(case.places[:_PLACES], of)

        words = f"the limit as the inputs tend to {name}"
        return Statement(f"limit-{name}", words, _as_far_as_it_goes(look, scales), basis="derived")

    def _growing(self, case: Case, scales: tuple[Decimal, Decimal]) -> bool:
        first, second = (self.scaled(case, scale).mapped for scale in scales)
        if not any(abs(second.value(p)) > abs(first.value(p)) for p in case.places):
            raise Refuted("no output grows")
        return True

    def weight_scale(self) -> Statement:
        """Return the statement of the weights' scale: at large inputs the factor of the weights has length one."""

        def look(case: Case, scales: tuple[Decimal, Decimal]) -> bool:
            """Compare the limit at infinity at both scales; return whether any place had a value."""
            pair = [self.scaled(case, scale) for scale in scales]
            kappa = case.plain.memory[(str(self.found.kappa), ())][0]

            def of(place: Place) -> None:
                """Raise ``Refuted`` where the weights' factor does not approach the stated length."""
                stated = pair[0].read(self.found.weight_scale, case, place)
                pulls = [scaled.coefficients(place, self.found.infinity.weights) for scaled in pair]
                lengths = [Decimal(sum(m * m for m, _ in pull)).sqrt() * stated for pull in pulls]
                first, second = (abs(length - 1) for length in lengths)
                settles = second <= _SMALL or second <= first * Decimal("0.6")
                if not settles and not case.same(stated * stated * kappa, 1):
                    raise Refuted(f"weights of that scale have a factor of length {shown(lengths[1])}, not 1")

            return over(case.places[:_PLACES], of)

        words = "the scale of the weights keeps the variance of a long input"
        return Statement("weight-scale", words, _as_far_as_it_goes(look, _FAR), basis="derived")

    def property(self, name: str, value: bool | None, basis: str) -> Statement | None:
        """Return the statement of a property, if it is decided."""
        words = {"scale_invariant": "scale invariant", "singular_at_zero": "singular at zero"}.get(name, name)
        looks = {
            "scale_invariant": (self._same_when_stretched, "input that scaling changes"),
            "injective": (self._apart, ""),
            "singular_at_zero": (self._one_limit, "jump at zero"),
            "bounded": (_as_far_as_it_goes(self._growth, _FAR), "growth"),
        }
        if value is None or name not in looks or (name == "injective" and not value) or not self.inputs:
            return None
        look, witness = looks[name]
        # Of singular and not singular, the second is the universal statement.
        universal = (not value) if name == "singular_at_zero" else value
        stated = f"the map is {words}" if value else f"the map is not {words}"
        slug = name.replace("_", "-")
        return Statement(slug, stated, _either(look, universal), "" if universal else witness, basis=basis)

    def _same_when_stretched(self, case: Case) -> str:
        here, there = self.scaled(case, 1).mapped, self.scaled(case, 7).mapped
        for place in case.places[:_PLACES]:
            a, b = here.value(place), there.value(place)
            if not case.same(a, b):
                return f"{shown(a)}, and {shown(b)} at seven times the input, at {case.words(place)}"
        return ""

    def _apart(self, case: Case) -> str:
        """Whether two inputs have the same output, everywhere."""
        here = self.scaled(case, 1).mapped
        if not any(here.slopes(p, self.inputs) for p in here.places):
            raise NotEvaluable("no output reads the input at these sizes")
        others = {"its negative": self.scaled(case, -1), "twice the input": self.scaled(case, 2)}
        others["another input"] = self.scaled(case, 1, "other")
        for words, other in others.items():
            if all(case.same(here.value(p), other.mapped.value(p)) for p in here.places):
                return f"an input and {words} have one output"
        return ""

    def _one_limit(self, case: Case) -> str:
        """Whether outputs at two inputs stay apart as both tend to zero."""
        gaps = []
        for scale in _NEAR:
            here, there = self.scaled(case, scale).mapped, self.scaled(case, scale, "other").mapped
            gaps.append(max(abs(here.value(p) - there.value(p)) for p in case.places[:_PLACES]))
        if gaps[1] > _SMALL and gaps[1] > gaps[0] * Decimal("0.6"):
            return f"two inputs close to zero have outputs {shown(gaps[1])} apart"
        return ""

    def _growth(self, case: Case, scales: tuple[Decimal, Decimal]) -> str:
        """Whether an output grows with the inputs."""
        first, second = (self.scaled(case, scale).mapped for scale in scales)
        for place in case.places[:_PLACES]:
            a, b = abs(first.value(place)), abs(second.value(place))
            if b > 2 * a + 1000:
                return f"an output grows from {shown(a)} to {shown(b)} at {case.words(place)}"
        return ""


def _as_far_as_it_goes(
    look: Callable[[Case, tuple[Decimal, Decimal]], Told], scales: tuple[Decimal, Decimal]
) -> Callable[[Case], Told]:
    """Evaluate at the far scales, or at nearer ones if the map has no value there."""

    def told(case: Case) -> Told:
        """Evaluate at the far scales, or at nearer ones if numbers leave their range."""
        try:
            return look(case, scales)
        except (NotEvaluable, ArithmeticError):
            if scales != _FAR:
                raise
            return look(case, _LESS_FAR)

    return told


def _either(look: Callable[[Case], str], universal: bool) -> Callable[[Case], bool]:
    """Turn the text that a look returns into a counterexample or a witness."""

    def told(case: Case) -> bool:
        """Return whether the claim was confirmed; raise ``Refuted`` for a counterexample of a universal one."""
        seen = look(case)
        if seen and universal:
            raise Refuted(seen)
        return bool(seen) or universal

    return told


def _off(pairs: Iterable[tuple[Any, Any]]) -> Any:
    """Return the largest distance of pairs, relative to the largest right side."""
    found = list(pairs)
    size = max((abs(b) for _, b in found), default=Decimal(0))
    # Convert: a quotient of integers is a float, not a Decimal.
    return Decimal(max((abs(a - b) for a, b in found), default=0)) / (size or 1)


def _off_offsets(scaled: _Scaled, place: Place, case: Case, limit: Limit) -> Any:
    offset = scaled.read(limit.offset, case, place) if limit.offsets else Decimal(1)
    beside = _off((m, offset * o) for m, o in scaled.coefficients(place, limit.offsets))
    return max(beside, _off([(scaled.rest(place), scaled.read(limit.rest, case, place))]))


def _off_value(scaled: _Scaled, place: Place, case: Case, limit: Limit) -> Any:
    factor = scaled.read(limit.factor, case, place)
    carried = _off((m, factor * o) for m, o in scaled.coefficients(place, limit.weights))
    return max(carried, _off_offsets(scaled, place, case, limit))


def _off_length(scaled: _Scaled, place: Place, case: Case, limit: Limit) -> Any:
    pairs = scaled.coefficients(place, limit.weights)
    length = Decimal(sum(o * o for _, o in pairs)).sqrt()
    factor = scaled.read(limit.factor, case, place) / length
    return max(_off((m, factor * o) for m, o in pairs), _off_offsets(scaled, place, case, limit))


def _off_direction(scaled: _Scaled, place: Place, case: Case, limit: Limit) -> Any:
    length = Decimal(sum(m * m for m, _ in scaled.coefficients(place, limit.weights))).sqrt()
    carried = _off([(length, scaled.read(limit.factor, case, place))])
    return max(carried, _off_offsets(scaled, place, case, limit))
