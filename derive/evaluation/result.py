"""Turn the results of a derivation into statements that are tested against the layer's forward map.

Kernel, cross terms, self factor, its shape, whether it depends on the parameters, which axes are units, and the order
of the change in eta. Kernels run over every *declared* parameter, whether the derivation mentions it or not.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Expr

from derive.evaluation.agreement import Patience, shown
from derive.evaluation.axes import unit_axes
from derive.evaluation.case import Case
from derive.evaluation.findings import Finding, Inquiry, Refuted, Statement, over
from derive.evaluation.reference import Place
from derive.evaluation.rules import rule_statements

if TYPE_CHECKING:
    from derive.record import Derivation

_RATES = (sympy.Rational(1, 8), sympy.S.One, sympy.Integer(8), sympy.Integer(64))  # a kink may be far away


def result_findings(derivation: Derivation, seed: int = 0, patience: Patience | None = None) -> list[Finding]:
    """Return the findings of independent evaluation on everything that a derivation states as its result."""
    changes = tuple(s.after for s in derivation.steps if s.id.endswith("-change"))
    expressions = (derivation.kernel, derivation.self_factor.expression, derivation.cross_terms)
    used = expressions if derivation.rule == "sgd" else (*expressions, *changes)
    return Inquiry(derivation.layer, used).findings(statements(derivation), seed, patience)


def statements(derivation: Derivation) -> list[Statement]:
    """Return the statements of a derivation under its rule."""
    prefix = f"{derivation.layer.name}/result"
    about = _Result(derivation, prefix)
    if derivation.rule == "sgd":
        return [*about.kernels(), *about.shape(), about.freedom(), about.units(), about.exactness()]
    return [*rule_statements(derivation, prefix), about.units()]


class _Result:
    """The statements of a derivation under plain descent."""

    def __init__(self, derivation: Derivation, prefix: str) -> None:
        self.derivation, self.prefix = derivation, prefix
        self.factor = derivation.self_factor

    def statement(self, name: str, words: str, look: Any, wanted: str = "", step: str = "") -> Statement:
        """Return a statement of this derivation."""
        return Statement(f"{self.prefix}-{name}", words, look, wanted, step)

    def kernels(self) -> list[Statement]:
        """The kernel, the cross terms and the self factor, against sums of products of slopes."""
        words = "the kernel adds up the products of slopes with respect to every declared parameter"
        return [
            self.statement("kernel", words, self._kernel, step="update-kernel"),
            self.statement(
                "cross-terms", "the cross terms are the kernel at two samples", self._cross_terms, step="cross-terms"
            ),
            self.statement(
                "self-factor",
                "the self factor is the kernel at one sample",
                self._self_factor,
                step="self-factor",
            ),
        ]

    def _kernel(self, case: Case) -> bool:
        def look(pair: tuple[Place, Place]) -> None:
            compare(case, self.derivation.kernel, case.reference.kernel(*pair), *pair)

        return over(case.pairs(), look)

    def _cross_terms(self, case: Case) -> bool:
        whole = self.derivation.cross_terms == self.derivation.kernel

        def look(pair: tuple[Place, Place]) -> None:
            """Compare the kernel of two places with the stated cross terms."""
            actual = case.reference.kernel(*pair)
            if whole or case.alike(*pair, self.derivation.units):
                compare(case, self.derivation.cross_terms, actual, *pair)
            elif not case.same(actual, 0):
                raise Refuted(f"units of two samples interact at {case.words(*pair)}: {shown(actual)}, not 0")

        met = over((p for p in case.pairs() if not case.alike(*p, self.derivation.samples)), look)
        return met or not self.derivation.samples

    def _self_factor(self, case: Case) -> bool:
        def look(pair: tuple[Place, Place]) -> None:
            """Compare the kernel of two places with the stated self factor."""
            actual = case.reference.kernel(*pair)
            if self.factor.shape == "full" or case.alike(*pair, self.derivation.units):
                compare(case, self.factor.expression, actual, *pair)
            elif not case.same(actual, 0):
                raise Refuted(f"two units of a sample interact at {case.words(*pair)}: {shown(actual)}, not 0")

        return over((p for p in case.pairs() if case.alike(*p, self.derivation.samples)), look)

    def shape(self) -> list[Statement]:
        """Whether the stated shape is right: neither too general nor too special."""
        wanted = {"diagonal": "two units with different factors", "full": "two interacting units"}.get(
            self.factor.shape
        )
        words = f"the self factor is {self.factor.shape}"
        if wanted is None:
            return [self.statement("shape", words, self._alike)]
        return [
            self.statement("shape", words, self._differs if self.factor.shape == "diagonal" else self._meet, wanted)
        ]

    def _of_one_sample(self, case: Case) -> list[tuple[Place, Place]]:
        samples = self.derivation.samples
        return [(a, b) for a, b in case.pairs() if a != b and case.alike(a, b, samples)]

    def _alike(self, case: Case) -> bool:
        for here, there in self._of_one_sample(case):
            first, second = case.reference.kernel(here, here), case.reference.kernel(there, there)
            if not case.same(first, second):
                words = f"{shown(first)} and {shown(second)}"
                raise Refuted(f"two units of a sample have different factors at {case.words(here, there)}: {words}")
        return True

    def _differs(self, case: Case) -> bool:
        kernel = case.reference.kernel
        return any(not case.same(kernel(a, a), kernel(b, b)) for a, b in self._of_one_sample(case))

    def _meet(self, case: Case) -> bool:
        return any(not case.same(case.reference.kernel(a, b), 0) for a, b in self._of_one_sample(case))

    def freedom(self) -> Statement:
        """Whether the self factor depends on the parameters."""
        free = self.factor.parameter_free
        words = "the self factor does not depend on the parameters" if free else "the self factor depends on parameters"
        return self.statement("freedom", words, self._free, "" if free else "dependence on the parameters")

    def _free(self, case: Case) -> bool:
        other, depends = case.reference.redrawn(), False
        for here in case.places:
            first, second = case.reference.kernel(here, here), other.kernel(here, here)
            if case.same(first, second):
                continue
            depends = True
            if self.factor.parameter_free:
                words = f"{shown(first)} and {shown(second)} with other parameters"
                raise Refuted(f"the self factor changes at {case.words(here)}: {words}")
        return depends or self.factor.parameter_free

    def units(self) -> Statement:
        """Which output axes are units: those that index a parameter by themselves."""
        claimed = {i.name for i in self.derivation.units}
        return self.statement(
            "units",
            f"the axes that index a parameter are: {', '.join(f'`{n}`' for n in sorted(claimed)) or 'none'}",
            self._units,
        )

    def _units(self, case: Case) -> bool:
        units, samples = set(self.derivation.units), set(self.derivation.samples)
        read = unit_axes(self.derivation.layer)
        found = read | {i for i in units - read if self._tied(case, case.indices.index(i))}
        if found != units or samples != set(case.indices) - found:
            names = ", ".join(i.name for i in case.indices if i in found) or "none"
            raise Refuted(f"the axes that index a parameter by themselves are: {names}")
        return True

    def _tied(self, case: Case, axis: int) -> bool:
        """Return whether each output along an axis uses its own entries: those at its place along one parameter axis.

        A sum with a delta has this effect on an index that does not occur alone in the forward map.
        """
        used = [(place[axis], key) for place in case.places for key in case.reference.slopes(place)]
        ways = {(key[0], k) for _, key in used for k in range(len(key[1]))}
        return any(all(key[1][k] == at for at, key in used if key[0] == name) for name, k in ways)

    def exactness(self) -> Statement:
        """The highest power of eta in the change of the activation."""
        order = self.derivation.order_in_eta
        if order == 1:
            words, wanted = "the activation moves by `-eta*K*g` for any `eta`", ""
        else:
            words = (
                "the activation moves by more than `-eta*K*g`"
                if order is None
                else f"the change has powers of `eta` up to {order}"
            )
            wanted = "departure from -eta K g" if order is None else f"power {order} of eta"
        return self.statement("order-in-eta", words, self._order, wanted, "activation-change" if order == 1 else "")

    def _order(self, case: Case) -> bool:
        """Move the parameters by 0, 1, 2, ... times a gradient: differences of an order above the stated one vanish."""
        order, reference = self.derivation.order_in_eta, case.reference
        weights = reference.drawn("loss gradient", case.places[:3])
        gradient, seen = reference.pulled(weights), False
        count = 3 if order is None else order + 2
        rate = _RATES[case.plain.seed % len(_RATES)]
        scale = case.plain.constant(rate)
        steps = [{k: -t * scale * v for k, v in gradient.items()} for t in range(count)]
        for place in case.places[:3]:
            values = [reference.after(step).value(place) for step in steps]
            if order == 1:
                first = scale * reference.along(place, {k: -v for k, v in gradient.items()})
                if not case.same(values[1] - values[0], first):
                    words = f"{shown(values[1] - values[0])}, not {shown(first)}"
                    raise Refuted(f"the activation moves by {words}, at {case.words(place)} for eta = {rate}")
            if order is not None and not case.same(_difference(values, order + 1), 0):
                raise Refuted(f"the change has a power of eta above {order} at {case.words(place)}")
            seen |= not case.same(_difference(values, 2 if order is None else order), 0)
        return seen or order == 1


def _difference(values: list[Any], order: int) -> Any:
    """Return the finite difference of an order of values at 0, 1, 2, ..."""
    for _ in range(order):
        values = [b - a for a, b in itertools.pairwise(values)]
    return values[0]


def compare(case: Case, expression: Expr, actual: Any, here: Place, there: Place | None = None) -> None:
    """Raise ``Refuted`` unless a derived expression has the value ``actual`` at one or two places."""
    derived = case.derived(expression, here, there)
    if not case.same(derived, actual):
        where = case.words(here, there)
        raise Refuted(f"the derived value is {shown(derived)}, the right one {shown(actual)}, at {where}")
