"""Evaluation alone refutes wrong results, whatever the steps beside them say, and confirms right ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import sympy
from sympy import Expr, KroneckerDelta

import derive
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, rename, tensor
from derive.check import checked, checked_map
from derive.evaluation.axes import unit_axes
from derive.evaluation.findings import Finding
from derive.evaluation.maps import map_findings
from derive.evaluation.result import result_findings
from derive.record import CancellingMap, Derivation, SelfFactor, Status
from derive.rules import RULES

Wrong = Callable[[Derivation], Derivation]


def factor(d: Derivation, **changed: object) -> Derivation:
    return replace(d, self_factor=replace(d.self_factor, **changed))


def entry(expression: Callable[[Expr], Expr]) -> Wrong:
    return lambda d: factor(d, expression=expression(d.self_factor.expression))


def change(rule: str, by: Callable[[Expr], Expr]) -> Wrong:
    def wrong(d: Derivation) -> Derivation:
        steps = [replace(s, after=by(s.after)) if s.id.endswith(f"/{rule}-change") else s for s in d.steps]
        return replace(d, steps=tuple(steps))

    return wrong


def shifted(expression: Expr, symbol: str) -> Expr:
    return expression.xreplace({t: t + 1 for t in expression.free_symbols if t.name == symbol})


x, s, j = tensor("x"), Index("s", size_symbol("B")), Index("j", size_symbol("n"))

PLANTED: dict[str, tuple[str, str, Wrong, str]] = {
    "a kernel doubled": ("affine", "sgd", lambda d: replace(d, kernel=2 * d.kernel), "kernel"),
    "a kernel without the bias": (
        "affine",
        "sgd",
        lambda d: replace(d, kernel=rename(d.kernel, {}) - KroneckerDelta(*(i for i in units(d)))),
        "kernel",
    ),
    "cross terms at one sample": (
        "affine",
        "sgd",
        lambda d: replace(d, cross_terms=rename(d.cross_terms, {s.primed(): s})),
        "cross-terms",
    ),
    "a self factor without the bias": ("affine", "sgd", entry(lambda e: e - 1), "self-factor"),
    "a one-norm for a square": (
        "linear",
        "sgd",
        entry(lambda e: IndexedSum(sympy.Abs(x[s, j]), j)),
        "self-factor",
    ),
    "isotropic for diagonal": ("gated", "sgd", lambda d: factor(d, shape="isotropic"), "shape"),
    "diagonal for full": ("low-rank", "sgd", lambda d: factor(d, shape="diagonal"), "self-factor"),
    "free of the parameters": ("low-rank", "sgd", lambda d: factor(d, parameter_free=True), "freedom"),
    "exact in eta": ("low-rank", "sgd", lambda d: replace(d, order_in_eta=1), "order-in-eta"),
    "a power of eta too few": ("affine>affine", "sgd", lambda d: replace(d, order_in_eta=1), "order-in-eta"),
    "a sample for a unit": ("affine", "sgd", lambda d: replace(d, units=(), samples=(*d.samples, *d.units)), "units"),
    "a padded patch without padding": (
        "convolution-1d",
        "sgd",
        lambda d: replace(
            d, kernel=d.kernel.xreplace({t: t + 1 for t in d.kernel.free_symbols if t.name == "padding"})
        ),
        "kernel",
    ),
    "twice the velocity": ("affine", "momentum", change("momentum", lambda e: 2 * e), "momentum-step"),
    "no decay": (
        "affine",
        "weight-decay",
        change("weight-decay", lambda e: e.xreplace({t: sympy.S.Zero for t in e.free_symbols if t.name == "lambda"})),
        "weight-decay-step",
    ),
    "the sign without the step": ("affine", "sign", change("sign", lambda e: -e), "sign-step"),
    "a square for a one-norm": ("affine", "sign", entry(lambda e: e**2), "sign-kernel"),
    "a step undivided": ("affine", "nlms", change("nlms", lambda e: 3 * e), "nlms-step"),
    "no ideal step": ("affine", "foof", entry(lambda e: 2 * e), "foof-kernel"),
}


def units(d: Derivation) -> tuple[Index, Index]:
    return d.units[0], d.units[0].primed()


def refuted(findings: list[Finding]) -> dict[str, str]:
    return {f.statement.name.partition("/result-")[2]: f.counterexample for f in findings if f.counterexample}


@pytest.mark.parametrize("row", PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_wrong_result_is_refuted(row: tuple[str, str, Wrong, str]) -> None:
    layer, rule, wrong, name = row
    right = derive.effective_update(derive.layer(layer), rule)
    assert not refuted(result_findings(right))
    found = refuted(result_findings(wrong(right)))
    assert name in found and " for " in found[name] and "seed" in found[name]


def test_the_steps_do_not_save_a_wrong_result() -> None:
    """A right chain of steps with a wrong stated result does not pass."""
    right = derive.effective_update(derive.layer("affine"))
    found = checked(replace(right, kernel=2 * right.kernel))
    assert {step.verdict.status for step in found.steps} == {Status.PROVED}
    (claim,) = [c for c in found.claims if c.verdict.status is Status.REFUTED]
    assert claim.id == "affine/result-kernel" and "the derived value is" in claim.verdict.method


@pytest.mark.parametrize("shape", ["diagonal", "full"])
def test_what_no_witness_shows_is_unverified_not_refuted(shape: str) -> None:
    right = derive.effective_update(derive.layer("affine"))
    claims = {c.id.partition("-")[2]: c.verdict for c in checked(factor(right, shape=shape)).claims}
    assert claims["shape"].status is Status.UNVERIFIED and claims["shape"].method.startswith("no two ")
    claims = {c.id.partition("-")[2]: c.verdict for c in checked(factor(right, parameter_free=False)).claims}
    assert claims["freedom"].status is Status.UNVERIFIED


def solution(layer: str, name: str) -> CancellingMap:
    return derive.solve(derive.layer(layer))[name]


MAPS: dict[str, tuple[str, str, Callable[[CancellingMap], CancellingMap], str]] = {
    "a residual that is none": ("affine", "affine-like", lambda m: replace(m, residual=m.kappa), "residual"),
    "a self factor of two": ("affine", "norm-like", lambda m: replace(m, self_factor=2 * m.kappa), "residual"),
    "an output unscaled": (
        "affine",
        "affine-like",
        lambda m: replace(m, mapped=m.mapped.with_output(m.layer.output.expression)),
        "residual",
    ),
    "a scale that is not the map's": (
        "affine",
        "norm-like",
        lambda m: replace(m, scales=tuple((name, 2 * scale) for name, scale in m.scales)),
        "map",
    ),
    "another angle": ("affine", "affine-like", lambda m: replace(m, angle=2 * m.angle), "angle"),
    "another scale of the weights": (
        "affine",
        "norm-like",
        lambda m: replace(m, weight_scale=m.weight_scale / 2),
        "weight-scale",
    ),
    "another decomposition": (
        "affine",
        "affine-like",
        lambda m: replace(m, decomposition=tuple((name, 2 * part) for name, part in m.decomposition)),
        "decomposition",
    ),
    "normalising": ("affine", "affine-like", lambda m: replace(m, kind="normalising"), "kind"),
    "another output": (
        "convolution-1d",
        "affine-like",
        lambda m: replace(m, mapped=m.mapped.with_output(m.mapped.output.expression + 1)),
        "map",
    ),
}


@pytest.mark.parametrize("row", MAPS.values(), ids=MAPS.keys())
def test_a_planted_wrong_map_is_refuted(row: tuple[str, str, Callable[[CancellingMap], CancellingMap], str]) -> None:
    layer, name, wrong, statement = row
    right = solution(layer, name)
    assert not refuted(map_findings(right))
    assert statement in refuted(map_findings(wrong(right)))


@pytest.mark.parametrize("name", ["affine", "embedding-bag", "attention-value", "convolution-1d"])
def test_the_results_of_a_layer_and_its_maps_hold(name: str) -> None:
    layer = derive.layer(name)
    found = [checked(derive.effective_update(layer)), *map(checked_map, derive.solve(layer))]
    statuses = {claim.id: claim.verdict.status for part in found for claim in part.claims}
    assert set(statuses.values()) == {Status.PROVED, Status.SAMPLED}
    kernel = next(c for c in found[0].claims if c.id.endswith("result-kernel"))
    assert kernel.verdict.method.startswith(f"{name}/update-kernel, by its normal form; the result against")


@pytest.mark.parametrize("rule", RULES)
def test_the_results_under_every_rule_hold(rule: str) -> None:
    for name in ("affine", "convolution-1d"):
        found = checked(derive.effective_update(derive.layer(name), rule))
        assert {c.verdict.status for c in found.claims} <= {Status.PROVED, Status.SAMPLED}
        assert any(c.id.endswith(f"{rule}-step") for c in found.claims)


def test_a_rule_without_an_entry_is_unverified() -> None:
    found = checked(replace(derive.effective_update(derive.layer("affine"), "nlms"), rule="unheard-of"))
    assert {c.verdict.status for c in found.claims if "unheard-of" in c.id} == {Status.UNVERIFIED}


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        ("affine", {"i"}),
        ("grouped-convolution", {"g", "o"}),
        ("transposed-convolution", {"o"}),
        ("attention", {"r"}),
        ("attention-value", {"r", "h"}),
        ("embedding", {"i"}),
        ("affine>rms-norm", {"j"}),
    ],
)
def test_units_are_read_from_the_forward_map(layer: str, names: set[str]) -> None:
    assert {i.name for i in unit_axes(derive.layer(layer))} == names


def test_a_forgotten_factor_type_is_told() -> None:
    """A self factor of an unknown shape is compared entry by entry."""
    right = derive.effective_update(derive.layer("affine"))
    odd = replace(right, self_factor=SelfFactor(sympy.S.One, "isotropic", True))
    assert "self-factor" in refuted(result_findings(odd))
