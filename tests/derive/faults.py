"""Faults of the deriver, planted at run time: wrong derivatives, lost guards, forgotten parameters, wrong shapes, ...

A fault patches only the deriver, never ``derive.evaluation``, and names a layer on which it changes a result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest
import sympy
from sympy import Add, Expr, KroneckerDelta, Mul, Pow

from derive import cancel, deriver, rules
from derive.algebra import differentiate, eliminate, index, nodes, normal, present
from derive.algebra.nodes import Divides, IndexedSum, Within
from derive.deriver import Deriver
from derive.forward_map import Layer
from derive.properties.limits import Limits
from derive.properties.profile import _Decisions
from derive.record import Limit, Property
from tests.derive.patches import Fault, Patch, instead, slope, stage, wrapped


def first_factor(expression: Expr, variable: Expr, scope: Any) -> Expr:
    """A product rule that forgets every factor but the first that depends on the variable."""
    for position, factor in enumerate(expression.args):
        found = differentiate.differentiate(factor, variable, scope)
        if found != 0:
            return Mul(*expression.args[:position], *expression.args[position + 1 :], found)
    return sympy.S.Zero


def wrong_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """The derivative of a power keeps its exponent."""
    right = differentiate._chain_rule

    def chain(expression: Expr, variable: Expr, scope: Any) -> Expr:
        if isinstance(expression, Pow):
            return expression.exp * expression * differentiate.differentiate(expression.base, variable, scope)
        return right(expression, variable, scope)

    monkeypatch.setattr(differentiate, "_chain_rule", chain)


def one_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    """The derivative of an entry with respect to an entry compares only the first index."""
    right = differentiate._entry

    def entry(expression: Expr, variable: Expr, scope: Any) -> Expr:
        if isinstance(variable, sympy.Indexed) and expression.base == variable.base:
            return KroneckerDelta(expression.indices[0], variable.indices[0])
        return right(expression, variable, scope)

    monkeypatch.setattr(differentiate, "_entry", entry)


def opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intermediates are treated as inputs."""
    right = differentiate._entry
    monkeypatch.setattr(differentiate, "_entry", lambda e, v, scope: right(e, v, {}))


def no_guards(kind: Any) -> Patch:
    """Delta elimination forgets the guards of a kind."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = eliminate.solve_for

        def solve(delta: Any, at: Any) -> Any:
            found = right(delta, at)
            return found and (found[0], [g for g in found[1] if not isinstance(g, kind)])

        monkeypatch.setattr(eliminate, "solve_for", solve)

    return patch


def captured(expression: Any, mapping: Any) -> Any:
    """A renaming under a sum that captures."""
    live = {old: new for old, new in mapping.items() if not nodes.indices_in(old) & set(expression.bound)}
    return expression.func(nodes.rename(expression.body, live), *expression.bound)


def as_it_is(self: Any) -> Any:
    """Open a sum without fresh names."""
    return self.body, self.bound


def careless_open(factors: Any, bound: Any) -> Any:
    """Merge sums without new names."""
    flat: list[Expr] = []
    for factor in factors:
        base, exponent = factor.as_base_exp()
        if isinstance(base, IndexedSum) and exponent.is_Integer and exponent > 0:
            flat.extend([*Mul.make_args(base.body)] * int(exponent))
            bound = tuple(dict.fromkeys((*bound, *base.bound)))
        else:
            flat.append(factor)
    return flat, bound


def diagonal_product(factors: Any) -> Expr:
    """A product of two sums that multiplies term by term."""
    sums = [Add.make_args(f) for f in factors]
    if len(sums) == 2 and len(sums[0]) == len(sums[1]) > 1:
        return Add(*(normal.tidy(a * b) for a, b in zip(*sums, strict=True)))
    return RIGHT_PRODUCT(factors)


RIGHT_PRODUCT = normal.product


def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound index that nothing uses is summed over once."""
    right = normal._sum_monomial

    def monomial(term: Expr, bound: Any) -> Expr:
        used = [i for i in bound if i in term.free_symbols or term.has(IndexedSum)]
        return right(term, tuple(used)) if used else normal.tidy(term)

    monkeypatch.setattr(normal, "_sum_monomial", monomial)


def shape_of(shape: str) -> Patch:
    """Every self factor has one shape."""
    return stage("classify", lambda _, factor: replace(factor, shape=shape))


def free(value: bool) -> Patch:
    """Every self factor is said to depend, or not, on the parameters."""
    return stage("classify", lambda _, factor: replace(factor, parameter_free=value))


def stripped(expression: Expr, pairs: Any) -> Expr:
    """Strip unit deltas that are not there."""
    deltas = {KroneckerDelta(a, b): sympy.S.One for a, b in pairs}
    return expression.xreplace(deltas).xreplace({b: a for a, b in pairs})


def all_samples(_: Deriver, units: Any) -> Any:
    """No axis is a unit."""
    return ()


def moved_by(name: str, change: Callable[[Any], Any]) -> Patch:
    """Change the step of a rule, and the change derived from it, in the same way."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        symbol = getattr(rules, name)
        monkeypatch.setattr(rules, name, change(symbol))

    return patch


def everything_decays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases decay as weights do."""
    monkeypatch.setattr(rules, "len", lambda of: 2, raising=False)


def wrong_root(factor: Expr, value: Expr) -> Expr:
    """Solve ``f factor = value`` for f."""
    return value / factor


def constant_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The condition on the scalars leaves the offsets out."""
    right = cancel.isotropic_family
    monkeypatch.setattr(cancel, "isotropic_family", lambda *a: replace(right(*a), constant=2 * right(*a).constant))


def unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrected layer leaves the scale out of its output."""
    right = cancel._mapped_layer
    monkeypatch.setattr(
        cancel, "_mapped_layer", lambda fam, *a: right(fam, *a).with_output(fam.layer.output.expression)
    )


def half_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrected layer is scaled twice."""
    right = cancel._mapped_layer

    def mapped(fam: Any, *a: Any) -> Layer:
        made = right(fam, *a)
        return made.with_output(made.output.expression * 2)

    monkeypatch.setattr(cancel, "_mapped_layer", mapped)


def no_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any residual is called zero, and the map is damaged."""
    half_scaled(monkeypatch)
    monkeypatch.setattr(cancel, "equal", lambda a, b: True)


def other_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The energy misses a factor."""
    right = cancel.isotropic_family
    monkeypatch.setattr(cancel, "isotropic_family", lambda *a: replace(right(*a), energy=right(*a).energy / 2))


def limit(name: str, change: Callable[[Limit], Limit]) -> Patch:
    """Change a limit of every map."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = getattr(Limits, name)
        monkeypatch.setattr(Limits, name, lambda self: change(right(self)))

    return patch


def doubled_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """SymPy's limits are twice what they should be."""
    right = sympy.limit
    monkeypatch.setattr(sympy, "limit", lambda *a, **k: 2 * right(*a, **k))


def prop(name: str, change: Callable[[Property], Property]) -> Patch:
    """Change a property of every map."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = _Decisions.__dict__[name]
        wrong = cached_property(lambda self: change(right.func(self)))
        wrong.__set_name__(_Decisions, name)
        monkeypatch.setattr(_Decisions, name, wrong)

    return patch


def twofold(total: IndexedSum) -> Expr:
    """A sum of twice its terms."""
    return IndexedSum(2 * total.body, *total.bound)


FAULTS: dict[str, Fault] = {
    # slopes
    "the slope of tanh": Fault("tanh", slope(sympy.tanh, lambda e: 1 - e)),
    "the slope of exp": Fault("exp", slope(sympy.exp, lambda e: sympy.S.One)),
    "the slope of log": Fault("log", slope(sympy.log, lambda e: e.args[0])),
    "the slope of sin": Fault("waves", slope(sympy.sin, lambda e: -sympy.cos(e.args[0]))),
    "the slope of cos": Fault("waves", slope(sympy.cos, lambda e: sympy.sin(e.args[0]))),
    "the slope of abs": Fault("abs", slope(sympy.Abs, lambda e: sympy.S.One)),
    "the slope of max": Fault("largest", slope(sympy.Max, lambda e: sympy.S.One)),
    "the slope of a power": Fault("root", wrong_power),
    "half a product rule": Fault("root", instead(differentiate, "_product_rule", first_factor)),
    "one delta of two": Fault("both", one_delta),
    "intermediates at rest": Fault("steps", opaque),
    # parameters
    "the last parameter forgotten": Fault("low-rank", stage("parameters", lambda _, found: found[:-1])),
    "the first parameter forgotten": Fault("low-rank", stage("parameters", lambda _, found: found[1:])),
    "every parameter twice": Fault("both", stage("unfactored_kernel", lambda _, kernel: 2 * kernel)),
    "the kernel of one parameter": Fault("both", stage("unfactored_kernel", lambda d, k: Add.make_args(k)[0])),
    "both samples the same": Fault(
        "both", stage("unfactored_kernel", lambda d, k: nodes.rename(k, {d.primes[i]: i for i in d.samples}))
    ),
    # guards
    "no range guard": Fault("shared", no_guards(Within)),
    "no guard at all": Fault("transposed-convolution-1d", no_guards((Within, Divides))),
    "every index in range": Fault("shared", instead(nodes, "always_within", lambda e, size: True)),
    "range guards that always hold": Fault("shared", instead(Within, "eval", classmethod(lambda c, v, s: sympy.S.One))),
    "any factor taken for a guard": Fault("square", instead(normal, "_once", lambda f: f.base if f.is_Pow else f)),
    # units
    "every axis a unit": Fault("squared", stage("units", lambda d, units: d.output.indices)),
    "no axis a unit": Fault("squared", stage("units", all_samples)),
    "a unit too many": Fault("window", stage("units", lambda d, units: d.output.indices[1:])),
    "units and samples swapped": Fault("squared", stage("units", lambda d, units: d.output.indices[:1])),
    # shape
    "isotropic for diagonal": Fault("tanh", shape_of("isotropic")),
    "diagonal for isotropic": Fault("linear", shape_of("diagonal")),
    "full for isotropic": Fault("linear", shape_of("full")),
    "diagonal for full": Fault("low-rank", shape_of("diagonal")),
    "deltas stripped that are not there": Fault("low-rank", instead(deriver, "strip_unit_deltas", stripped)),
    "free of parameters": Fault("tanh", free(True)),
    "not free of parameters": Fault("linear", free(False)),
    # order in eta
    "linear in the parameters": Fault("both", instead(deriver, "degree", lambda *_: 1)),
    "quadratic in the parameters": Fault("linear", instead(deriver, "degree", lambda *_: 2)),
    "no polynomial in the parameters": Fault("linear", instead(deriver, "degree", lambda *_: None)),
    "a degree too low": Fault("twice", wrapped(deriver, "degree", lambda d: d + 1)),
    # rules
    "half the velocity": Fault("affine", moved_by("mu", lambda mu: mu / 2), "momentum"),
    "decay of the other sign": Fault("affine", moved_by("lam", lambda lam: -lam), "weight-decay"),
    "twice the plain step": Fault("affine", wrapped(rules, "_plain", lambda step: 2 * step), "momentum"),
    "biases decay": Fault("affine", everything_decays, "weight-decay"),
    "twice the rate": Fault("affine", moved_by("eta", lambda eta: 2 * eta), "momentum"),
    "no rate": Fault("affine", moved_by("eta", lambda eta: sympy.S.One), "nlms"),
    "no damping": Fault("affine", moved_by("lam", lambda lam: sympy.S.Zero), "foof"),
    "the sign of nothing": Fault("affine", moved_by("eta", lambda eta: eta / 3), "sign"),
    # maps
    "a root left out": Fault("linear", instead(cancel, "_positive_root", wrong_root)),
    "an offset counted twice": Fault("affine", constant_forgotten),
    "a map without its scale": Fault("linear", unscaled),
    "a residual called zero": Fault("linear", no_residual),
    "scales of the wrong parameters": Fault(
        "affine", instead(cancel, "_scale_of", lambda fam, name, f, h: h if name in fam.weights else f)
    ),
    "half the energy": Fault("linear", other_energy),
    # limits
    "a limit at zero": Fault("affine", limit("zero", lambda found: replace(found, factor=2 * found.factor))),
    "a limit of the offset": Fault("affine", limit("zero", lambda found: replace(found, offset=found.offset / 2))),
    "a limit far away": Fault("linear", limit("infinity", lambda found: replace(found, factor=3 * found.factor))),
    "every limit doubled": Fault("linear", doubled_limits),
    "a length for a value": Fault("linear", limit("infinity", lambda found: replace(found, kind="value"))),
    "no bound far away": Fault("linear", limit("infinity", lambda found: replace(found, kind="unbounded"))),
    "scale invariant": Fault("affine", prop("scale_invariant", lambda p: replace(p, value=True))),
    "not scale invariant": Fault("linear", prop("scale_invariant", lambda p: replace(p, value=False))),
    "injective": Fault("linear", prop("injective", lambda p: replace(p, value=True))),
    "not singular at zero": Fault("linear", prop("singular_at_zero", lambda p: replace(p, value=False))),
    "not bounded": Fault("linear", prop("bounded", lambda p: replace(p, value=False))),
    # binders
    "a renaming that captures": Fault("deep", instead(nodes, "_rename_under", captured)),
    "no fresh index": Fault("deep", instead(index.Index, "fresh", lambda self: self)),
    "no primed index": Fault("both", instead(index.Index, "primed", lambda self: self)),
    "sums merged under one name": Fault("both", instead(normal, "_open", careless_open)),
    "no fresh names": Fault("squared", instead(normal, "unused", lambda bound, taken: {i: i for i in bound})),
    # contents of sums
    "a content twice": Fault("halves", wrapped(normal, "_content", lambda pair: (pair[0] ** 2, pair[1]))),
    "a content lost": Fault("halves", wrapped(normal, "_content", lambda pair: (sympy.S.One, pair[1]))),
    "an index without a count": Fault("ones", uncounted),
    "no cross products": Fault("squared", instead(normal, "product", diagonal_product)),
    "a term lost": Fault("both", wrapped(normal, "_normal_form", lambda e: e.args[0] if e.is_Add else e)),
    "an intermediate of the wrong size": Fault("soft", wrapped(present, "fold", lambda e: e and 2 * e)),
    "factors not equal to the whole": Fault("steps", wrapped(present, "factored", lambda e: 2 * e)),
    "a sum pushed too far": Fault(
        "attention-value", wrapped(present, "push_inwards", lambda e: IndexedSum(2 * e.body, *e.bound))
    ),
}
