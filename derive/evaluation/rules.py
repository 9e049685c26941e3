"""The parameter step of each update rule, by this package's own table, against the statements of a derivation.

momentum       theta' = theta - eta (mu M + G)
weight-decay   theta' = theta - eta (G + lambda theta), tensors of one axis without lambda
sign           theta' = theta - eta sign(G_s), G_s the gradient of one sample
nlms           theta' = theta - eta sum over o of g[o] J[o]/K[o, o]
foof           theta' = theta - eta D, (J^T J + lambda) D = J^T g, g = (K + lambda) h
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from derive.evaluation.agreement import shown
from derive.evaluation.case import Case
from derive.evaluation.evaluate import evaluate
from derive.evaluation.findings import Refuted, Statement
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Key
from derive.evaluation.reference import Place, solution

if TYPE_CHECKING:
    from derive.record import Derivation

Move = Callable[[Case, Place], Mapping[Key, Any]]
_LOOKED_AT = 2


def loss_gradient(case: Case) -> str:
    """Return the name of the loss gradient in derived expressions: the first of a sequence that the layer lacks."""
    layer = case.reference.layer
    used = {t.name for t in (*layer.inputs, *layer.parameters)} | {d.name for d in layer.definitions}
    return next(name for name in ("g", "g_z", "g_out", "gg") if name not in used)


def _scalar(case: Case, name: str) -> Any:
    return case.plain.draw(name, (), positive=True)


def _gradient(case: Case) -> dict[Key, Any]:
    return case.reference.pulled(case.reference.drawn(loss_gradient(case)))


def _momentum(case: Case, place: Place) -> Mapping[Key, Any]:
    eta, mu, gradient = _scalar(case, "eta"), _scalar(case, "mu"), _gradient(case)
    return {k: -eta * (mu * case.plain.draw(f"M_{k[0]}", k[1]) + g) for k, g in gradient.items()}


def _weight_decay(case: Case, place: Place) -> Mapping[Key, Any]:
    eta, decay, gradient = _scalar(case, "eta"), _scalar(case, "lambda"), _gradient(case)
    decayed = {k: decay * case.reference.entry(k) if len(k[1]) > 1 else 0 for k in gradient}
    return {k: -eta * (g + decayed[k]) for k, g in gradient.items()}


def _sign(case: Case, place: Place, units: tuple[int, ...]) -> Mapping[Key, Any]:
    same = [p for p in case.reference.places if all(p[k] == place[k] for k in range(len(place)) if k not in units)]
    gradient = case.reference.pulled(case.reference.drawn(loss_gradient(case), same))
    eta = _scalar(case, "eta")
    return {k: -eta * ((g > 0) - (g < 0)) for k, g in gradient.items()}


def _nlms(case: Case, place: Place) -> Mapping[Key, Any]:
    reference, eta = case.reference, _scalar(case, "eta")
    weights = {p: g * _over(case, reference.kernel(p, p)) for p, g in reference.drawn(loss_gradient(case)).items()}
    return {k: -eta * g for k, g in reference.pulled(weights).items()}


def _foof(case: Case, place: Place) -> Mapping[Key, Any]:
    """Solve the normal equations themselves, entry by entry of the parameters."""
    reference, eta, decay = case.reference, _scalar(case, "eta"), _scalar(case, "lambda")
    tidy = case.plain.field.tidy
    right = reference.pulled(_damped(case))
    keys = sorted(right)
    slopes = [reference.slopes(o) for o in reference.places]
    matrix = [[sum(s.get(a, 0) * s.get(b, 0) for s in slopes) + decay * (a == b) for b in keys] for a in keys]
    found = solution([[tidy(v) for v in row] for row in matrix], [right[k] for k in keys], case.plain)
    if found is None:
        raise NotEvaluable("the normal equations have no solution")
    return {k: -eta * d for k, d in zip(keys, found, strict=True)}


def _damped(case: Case) -> dict[Place, Any]:
    """Return ``g = (K + lambda) h``."""
    reference, decay = case.reference, _scalar(case, "lambda")
    drawn = reference.drawn("h_foof")
    kernel = {o: sum(reference.kernel(o, p) * h for p, h in drawn.items()) for o in drawn}
    return {o: case.plain.field.tidy(kernel[o] + decay * h) for o, h in drawn.items()}


def _over(case: Case, value: Any) -> Any:
    if not case.plain.field.weight(value):
        raise NotEvaluable("a sample with the self factor 0")
    return case.plain.field.inverse(value)


def rule_statements(derivation: Derivation, prefix: str) -> list[Statement]:
    """Return the statements of a derivation under a rule other than plain descent: its step, and its results."""
    about = _UnderRule(derivation)
    moves: dict[str, Move] = {
        "momentum": _momentum,
        "weight-decay": _weight_decay,
        "sign": lambda case, place: _sign(case, place, about.unit_positions(case)),
        "nlms": _nlms,
        "foof": _foof,
    }
    rule = derivation.rule
    if rule not in moves:
        return [Statement(f"{prefix}-{rule}-step", f"the step of {rule}", _unknown)]
    change = next(s for s in derivation.steps if s.id.endswith(f"/{rule}-change"))

    def step(case: Case) -> bool:
        """Compare the derived change with that of the moved parameters."""
        for place in case.places[:_LOOKED_AT]:
            before, after = case.reference.value(place), case.reference.after(moves[rule](case, place)).value(place)
            derived = case.derived(change.after, place)
            if not case.same(after - before, derived):
                words = f"the derived change is {shown(derived)}, the right one {shown(after - before)}"
                raise Refuted(f"{words}, at {case.words(place)}")
        return True

    looks = {"sign": about.sign, "nlms": about.nlms, "foof": about.foof}
    factors = Statement(f"{prefix}-{rule}-kernel", f"kernel and self factor under {rule}", looks.get(rule, about.plain))
    return [Statement(f"{prefix}-{rule}-step", f"the step of {rule}", step, step=f"{rule}-change"), factors]


def _unknown(case: Case) -> bool:
    raise NotEvaluable("this rule has no entry in the table of independent evaluation")


class _UnderRule:
    """The statements of a derivation about kernel, cross terms and self factor under its rule."""

    def __init__(self, derivation: Derivation) -> None:
        self.derivation = derivation

    def unit_positions(self, case: Case) -> tuple[int, ...]:
        """Return which of the output's indices are units."""
        return tuple(k for k, i in enumerate(case.indices) if i in self.derivation.units)

    def plain(self, case: Case) -> bool:
        """Check that momentum and weight decay leave the kernel as it is."""
        return self._agrees(case, case.reference.kernel)

    def nlms(self, case: Case) -> bool:
        """Check that each sample's share is divided by its self factor."""
        kernel = case.reference.kernel
        return self._agrees(case, lambda here, there: kernel(here, there) * _over(case, kernel(there, there)))

    def foof(self, case: Case) -> bool:
        """Check that the activation moves by -eta g if K has an inverse and lambda is 0: the kernel is the identity."""
        places = case.reference.places
        matrix = [[case.reference.kernel(a, b) for b in places] for a in places]
        if solution(matrix, [0] * len(places), case.plain) is None:
            raise NotEvaluable("the kernel has no inverse")
        return self._agrees(case, lambda here, there: int(here == there)) and self._normal_equations(case)

    def _normal_equations(self, case: Case) -> bool:
        """Check that both sides of each normal equation are J^T (K + lambda) h, at its first and last entry."""
        right = case.reference.pulled(_damped(case))
        for step in self.derivation.steps:
            if "foof-normal-equation-" not in step.id:
                continue
            keys = sorted(key for key in right if step.id.endswith(f"-{key[0]}"))
            for key in keys[:1] + keys[-1:]:
                at = dict(zip(step.target.indices, key[1], strict=True))
                for side in (step.before, step.after):
                    derived = evaluate(side, at, case.plain)
                    if not case.same(derived, right[key]):
                        raise Refuted(f"{step.id}: derived {shown(derived)}, the right value is {shown(right[key])}")
        return True

    def sign(self, case: Case) -> bool:
        """Compare the change with the self factor times the sign of g; the kernel stays as it is."""
        name, eta, factor = loss_gradient(case), _scalar(case, "eta"), self.derivation.self_factor
        self._kernel(case, case.reference.kernel)
        for place in case.places[:_LOOKED_AT]:
            move = _sign(case, place, self.unit_positions(case))
            change = case.reference.after(move).value(place) - case.reference.value(place)
            slope = case.plain.draw(name, place)
            derived = -eta * case.derived(factor.expression, place) * ((slope > 0) - (slope < 0))
            if not case.same(change, derived):
                words = f"{shown(derived)} instead of {shown(change)}"
                raise Refuted(f"the self factor times sign(g) is not the change: {words}, at {case.words(place)}")
        return True

    def _agrees(self, case: Case, expected: Callable[[Place, Place], Any]) -> bool:
        self._kernel(case, expected)
        factor, derivation = self.derivation.self_factor, self.derivation
        for here, there in case.pairs():
            if not case.alike(here, there, derivation.samples):
                continue
            paired = factor.shape == "full" or case.alike(here, there, derivation.units)
            derived = case.derived(factor.expression, here, there) if paired else 0
            self._same(case, derived, expected(here, there), here, there)
        return True

    def _kernel(self, case: Case, expected: Callable[[Place, Place], Any]) -> None:
        derivation = self.derivation
        for here, there in case.pairs():
            self._same(case, case.derived(derivation.kernel, here, there), expected(here, there), here, there)
            if not case.alike(here, there, derivation.samples) and case.alike(here, there, derivation.units):
                self._same(case, case.derived(derivation.cross_terms, here, there), expected(here, there), here, there)

    @staticmethod
    def _same(case: Case, derived: Any, right: Any, here: Place, there: Place) -> None:
        if not case.same(derived, right):
            words = f"the derived value is {shown(derived)}, the right one {shown(right)}"
            raise Refuted(f"{words}, at {case.words(here, there)}")
