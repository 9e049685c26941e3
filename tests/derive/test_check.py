"""The machine check passes right steps, refutes corrupted ones, and reports what cannot be evaluated."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import sympy
from sympy import Expr, Indexed, KroneckerDelta

import derive
from derive import check
from derive.algebra import normal
from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import Divides, IndexedSum, PartialDerivative, Within, tensor
from derive.algebra.patience import OutOfTime
from derive.check import check_step, checked, checked_map
from derive.deriver import eta
from derive.forward_map import BATCH as s
from derive.record import Derivation, Status, Step, Verdict
from derive.spec import loads_spec
from tests.derive.mutants import mutants, whole

n, m = size_symbol("n"), size_symbol("m")
i, i_, j, s_ = Index("i", m), Index("i'", m), Index("j", n), s.primed()
x, W, b, u = tensor("x"), tensor("W"), tensor("b"), tensor("u")
square = IndexedSum(x[s, j] ** 2, j)


def step_of(layer: str, name: str) -> Step:
    """A step of a layer's derivation or, after a colon, of one of its maps: ``affine:affine-like``."""
    layer, _, map_name = layer.partition(":")
    if map_name:
        found = derive.solve(derive.layer(layer))[map_name]
        return next(step for step in found.steps if step.id.endswith("/" + name))
    return derive.effective_update(derive.layer(layer)).step(name)


def swap(base: str, first: int, second: int) -> Callable[[Expr], Expr]:
    """Swap two indices of every entry of a tensor."""

    def change(entry: Indexed) -> Expr:
        indices = list(entry.indices)
        indices[first], indices[second] = indices[second], indices[first]
        return entry.base[tuple(indices)]

    return lambda e: e.replace(lambda part: isinstance(part, Indexed) and str(part.base.label) == base, change)


def without(kind: type) -> Callable[[Expr], Expr]:
    """Drop every guard of a kind."""
    return lambda e: e.replace(lambda part: isinstance(part, kind), lambda part: sympy.S.One)


def shorter(e: Expr) -> Expr:
    """Let every sum stop one term before its end."""

    def change(total: IndexedSum) -> Expr:
        last = total.bound[-1]
        cut = Index(last.name, last.size - 1, last.tag)
        return IndexedSum(total.body.xreplace({last: cut}), *total.bound[:-1], cut)

    return e.replace(lambda part: isinstance(part, IndexedSum), change)


def renamed(old: str, new: str) -> Callable[[Expr], Expr]:
    """Replace one tensor by another."""
    return lambda e: e.xreplace({tensor(old): tensor(new)})


def shifted(symbol: str, by: int) -> Callable[[Expr], Expr]:
    """Change an offset or a stride everywhere."""
    return lambda e: e.xreplace({t: t + by for t in e.free_symbols if t.name == symbol})


CORRUPTED: dict[str, tuple[str, str, Callable[[Expr], Expr]]] = {
    "a sign": ("affine", "activation-change", lambda e: -e),
    "a factor of two": ("affine", "loss-gradient-W", lambda e: 2 * e),
    "an exponent": ("affine", "self-factor", lambda e: e**2),
    "a cube for a square": ("linear", "self-factor", lambda e: e.replace(lambda p: p.is_Pow, lambda p: p.base**3)),
    "a bias term dropped": ("affine", "self-factor", lambda e: e - KroneckerDelta(i, i_)),
    "a missing delta": ("affine", "update-kernel", lambda e: e.xreplace({KroneckerDelta(i, i_): sympy.S.One})),
    "a delta of the wrong pair": ("affine", "update-kernel", lambda e: e.xreplace({i_: Index("j'", m)})),
    "the wrong sample": ("affine", "cross-terms", lambda e: e.xreplace({s_: s})),
    "a sum cut short": ("affine", "self-factor", shorter),
    "indices swapped": ("affine", "loss-gradient-W", swap("x", 0, 1)),
    "another tensor": ("affine", "loss-gradient-W", renamed("x", "y")),
    "a step forgotten": ("affine", "sgd-step-b", lambda e: sympy.Add(*(a for a in e.args if not a.has(eta)))),
    "a gradient of nothing": ("affine", "parameter-gradient-W", lambda e: sympy.S.Zero),
    "a delta dropped": ("low-rank", "parameter-gradient-U", without(KroneckerDelta)),
    "half a kernel": ("low-rank", "update-kernel", lambda e: e.args[0]),
    "a matrix transposed": ("low-rank", "self-factor", swap("U", 0, 1)),
    "a range guard dropped": ("convolution-1d", "self-factor", without(Within)),
    "padding off by one": ("convolution-1d", "self-factor", shifted("padding", 1)),
    "a stride off by one": ("convolution-1d", "forward", shifted("stride", 1)),
    "a dilation off by one": ("convolution-1d", "parameter-gradient-W", shifted("dilation", 1)),
    "a kernel cut short": ("convolution-1d", "self-factor", shorter),
    "channels and positions swapped": ("convolution-1d", "forward", swap("x", 1, 2)),
    "both guards dropped": ("transposed-convolution-1d", "self-factor", without(Within | Divides)),  # type: ignore[arg-type]
    "the positions of one sample": (
        "convolution-1d",
        "update-kernel",
        lambda e: e.xreplace({Index("p'", size_symbol("P")): Index("p", size_symbol("P"))}),
    ),
    "a missing half": ("attention", "self-factor", lambda e: e / 2),
    "queries for keys": ("attention", "self-factor", renamed("u", "k")),
    "a root of the width": ("attention", "update-kernel", lambda e: e * sympy.sqrt(size_symbol("d"))),
    "sigma without its square": ("gated", "self-factor", lambda e: e.replace(lambda p: p.is_Pow, lambda p: p.base)),
    "tokens counted once": ("embedding-bag", "self-factor", without(KroneckerDelta)),
    "the root left out": ("affine:affine-like", "solution", lambda e: e + 1),
    "a radial term of the other sign": ("affine:affine-like", "backward-dx", lambda e: e.args[0] - e.args[1]),
    "no radial term": ("affine:norm-like", "backward-dx", lambda e: e.args[-1]),
    "a scale forgotten": ("affine:affine-like", "backward-dW", renamed("f", "one")),
    "kappa for its root": ("affine:affine-like", "self-factor", lambda e: e**2),
    "the mean forgotten": ("batch-norm>affine", "mean-self-factor", lambda e: e - 1),
    "the cosine forgotten": ("qk-norm>attention", "self-factor", lambda e: e.args[0] * 2),
    "a normaliser transparent": ("affine>rms-norm", "self-factor", lambda e: e * tensor("q")[s]),
}


@pytest.mark.parametrize("row", CORRUPTED.values(), ids=CORRUPTED.keys())
def test_a_corrupted_step_is_refuted(row: tuple[str, str, Callable[[Expr], Expr]]) -> None:
    step = step_of(row[0], row[1])
    wrong = row[2](step.after)
    assert wrong != step.after
    assert check_step(step).status in (Status.PROVED, Status.SAMPLED)
    verdict = check_step(replace(step, after=wrong))
    assert verdict.status is Status.REFUTED
    assert "differ at" in verdict.method and step.id in verdict.method


@pytest.mark.parametrize("layer", ["affine", "low-rank", "embedding-bag", "convolution-1d"])
def test_every_single_mistake_is_refuted(layer: str) -> None:
    """Test all mutants of all steps, some hundreds per layer; a mutant that passes must be equal to the original."""
    derivation = derive.effective_update(derive.layer(layer))
    count = 0
    for step in derivation.steps:
        scope = {d.base: d for d in step.scope}
        made = {m: name for name, m in itertools.chain(whole(step.after), mutants(step.after)) if m != step.after}
        for wrong, name in made.items():
            count += 1
            if check_step(replace(step, after=wrong)).status is not Status.REFUTED:
                sides = (expand_definitions(e, scope) for e in (wrong, step.after))
                assert equal(*sides) or vacuous(name, wrong), f"{step.id}, {name}: {wrong}"
    assert count > 100


def vacuous(name: str, wrong: Expr) -> bool:
    """A divisibility guard has no effect next to the range guard of the same quotient, which requires an integer."""
    return name == "a guard dropped" and any(not e.args[0].is_integer for e in wrong.atoms(Within))


# With three transposed spatial axes twelve guards are adjacent: points where one alone decides are too rare. One and
# two axes break the same rules, and so do three axes without transposition, which take longest.
LARGE = ("transposed-convolution-3d", "transposed-convolution", "convolution-3d")
BREAKABLE = [n for n in derive.layer_names() if "norm" not in n and n not in LARGE]


@pytest.mark.slow
@pytest.mark.parametrize("layer", BREAKABLE)
def test_every_single_mistake_is_refuted_in_every_layer(layer: str) -> None:
    derivation = derive.effective_update(derive.layer(layer))
    for step in derivation.steps:
        for name, wrong in itertools.chain(whole(step.after), mutants(step.after)):
            if wrong != step.after and check_step(replace(step, after=wrong)).status is not Status.REFUTED:
                sums_to_one = layer == "attention-value" and str(step.id).endswith(("-b", "change"))
                assert equal(wrong, step.after) or vacuous(name, wrong) or sums_to_one, f"{step.id}, {name}: {wrong}"


@pytest.mark.parametrize(
    "name", [n for n in derive.layer_names() if n not in ("l2-norm", "rms-norm", "layer-norm", "batch-norm")]
)
def test_every_step_of_every_layer_passes(name: str) -> None:
    statuses = {step.id: step.verdict.status for step in derive.effective_update(derive.layer(name)).check().steps}
    assert set(statuses.values()) <= {Status.PROVED, Status.SAMPLED}, statuses


def made_up(before: Expr, after: Expr, **more: object) -> Step:
    return Step("made-up", "", before, before, after, **more)  # type: ignore[arg-type]


def test_proved_and_sampled_are_told_apart() -> None:
    proved = check_step(made_up(IndexedSum(x[s, j] * 2, j), 2 * IndexedSum(x[s, j], j)))
    assert proved.status is Status.PROVED and "normal form" in proved.method
    identity = sympy.sin(2 * x[s, j]), 2 * sympy.sin(x[s, j]) * sympy.cos(x[s, j])
    sampled = check_step(made_up(*identity))
    assert sampled.status is Status.SAMPLED and "60 digits" in sampled.method


@pytest.mark.parametrize(
    "side",
    [
        x[s, j] ** W[i, j] + PartialDerivative(x[s, j] ** W[i, j], W[i, j]),
        sympy.log(-(x[s, j] ** 2) - 1),
        x[s, j / 2 + sympy.Rational(1, 3)],
        PartialDerivative(PartialDerivative(x[s, j] ** 3, x[s, j]), x[s, j]),
        1 / IndexedSum(x[s, j] - x[s, Index("k", n)], j, Index("k", n)),
    ],
)
def test_what_cannot_be_evaluated_is_unverified(side: Expr) -> None:
    verdict = check_step(made_up(side, side + x[s, j]))
    assert verdict.status is Status.UNVERIFIED and "not evaluable" in verdict.method


def test_an_unverified_step_is_reported_not_passed() -> None:
    derivation = derive.effective_update(derive.layer("affine"))
    odd = made_up(sympy.log(-(x[s, j] ** 2) - 1), x[s, j])
    found = checked(replace(derivation, steps=(*derivation.steps, odd)))
    assert [step.id for step in found.steps if step.verdict.status is Status.UNVERIFIED] == ["made-up"]
    assert all(step.verdict == Verdict(Status.UNVERIFIED, "not checked yet") for step in derivation.steps)


def test_a_step_that_holds_at_size_one_only_is_refuted() -> None:
    k = Index("k", n)
    assert check_step(made_up(IndexedSum(x[s, j], j) ** 2, square)).status is Status.REFUTED
    assert check_step(made_up(x[s, j] * W[i, j], x[s, k] * W[i, j])).status is Status.REFUTED
    assert check_step(made_up(KroneckerDelta(j, k) * x[s, j], x[s, j])).status is Status.REFUTED
    assert check_step(made_up(IndexedSum(sympy.S.One, j), sympy.S.One)).status is Status.REFUTED


def test_a_step_that_holds_without_padding_only_is_refuted() -> None:
    padding = sympy.Symbol("padding", integer=True, nonnegative=True)
    assert check_step(made_up(Within(j - padding, n) * x[s, j], x[s, j])).status is Status.REFUTED
    assert check_step(made_up(Divides(size_symbol("stride"), j) * x[s, j], x[s, j])).status is Status.REFUTED


def test_other_points_are_chosen_by_the_seed() -> None:
    wrong = made_up(square, 2 * square)
    methods = {check_step(wrong, seed=seed).method for seed in range(3)}
    assert len(methods) == 3 and check_step(wrong).method == check_step(wrong).method


def test_the_steps_of_maps_are_checked_with_the_derivation() -> None:
    layer = derive.layer("affine")
    derivation = replace(derive.effective_update(layer), solutions=derive.solve(layer).maps)
    found = checked(derivation)
    assert all(step.verdict.status is Status.PROVED for m in found.solutions for step in m.steps)
    assert checked_map(derivation.solutions[0]).steps == found.solutions[0].steps


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the engine: delta elimination forgets the guards that it needs."""
    found = normal.eliminate

    def eliminate(factors: list[Expr], bound: tuple[Index, ...]) -> object:
        result = found(factors, bound)
        if result is None:
            return None
        left, remaining = result
        return [f for f in left if not isinstance(f, Within | Divides) or f in factors], remaining

    monkeypatch.setattr(normal, "eliminate", eliminate)
    fresh: dict[Expr, Expr] = {}
    monkeypatch.setattr(normal, "_known", fresh)
    derive.effective_update.cache_clear()
    yield
    derive.effective_update.cache_clear()


@pytest.mark.usefixtures("careless")
@pytest.mark.parametrize("name", ["transposed-convolution-1d", "transposed-convolution"])
def test_an_engine_that_drops_guards_is_caught(name: str) -> None:
    """The broken engine derives and proves the step; evaluation, which shares no rule with it, refutes it."""
    derivation: Derivation = derive.effective_update(derive.layer(name))
    statuses = {step.id.rpartition("/")[2]: step.verdict.status for step in derivation.check().steps}
    assert statuses["self-factor"] is Status.REFUTED
    assert statuses["forward"] in (Status.PROVED, Status.SAMPLED)


def test_an_engine_that_drops_terms_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a normal form that loses the first term of a sum of two."""
    real = normal._normal_form

    def lossy(expression: Expr) -> Expr:
        form = real(expression)
        return form.args[0] if form.is_Add else form

    monkeypatch.setattr(normal, "_normal_form", lossy)
    monkeypatch.setattr(normal, "_known", {})
    derive.effective_update.cache_clear()
    try:
        steps = derive.effective_update(derive.layer("affine")).check().steps
    finally:
        derive.effective_update.cache_clear()
    assert Status.REFUTED in {step.verdict.status for step in steps}


def from_formula(formula: str, parameters: str = 'W = ["m", "n"]', sizes: str = '"n", "m"') -> Derivation:
    text = f'name = "made"\nsizes = [{sizes}]\n[input]\nx = ["n"]\n[parameters]\n{parameters}\n[output]\nz = ["m"]\n'
    return derive.effective_update(loads_spec(f'{text}formula = "{formula}"\n'))


@pytest.mark.parametrize(
    "formula",
    [
        "z[i] = sum[j](W[i,j]*x[j])/sqrt(9*sum[j](x[j]**2) + 9)",  # 9 has a root modulo a prime that is not 3
        "z[i] = sum[j](W[i,j]*x[j])/sqrt(7*sum[j](x[j]**2) + 28)",
        "z[i] = sqrt(1000003)*sum[j](W[i,j]*x[j])/3",  # a number without a root modulo that prime
        "z[i] = sum[j](W[i,j]*x[j])/7 + sum[j](W[i,j])/(2*n)",
        "z[i] = sum[j](W[i,j]*(x[j] - sum[k](x[k])/n))/sqrt(sum[j]((x[j] - sum[k](x[k])/n)**2))",  # 0/0 at n = 1
        "z[i] = sum[j](W[i,j]*log(x[j]))",
        "z[i] = sum[j](W[i,j]*sqrt(1 - x[j]**2))",
        "z[i] = abs(sum[j](W[i,j]*x[j]))",
    ],
)
def test_no_right_step_is_refuted(formula: str) -> None:
    steps = from_formula(formula).check().steps
    assert {s.verdict.status for s in steps} <= {Status.PROVED, Status.SAMPLED}, [s.verdict for s in steps]


def test_what_time_does_not_suffice_for_is_said_to_be_unchecked() -> None:
    layer = derive.layer("gain")
    derivation = replace(derive.effective_update(layer), solutions=derive.solve(layer).maps)
    check._known.clear()
    check._verdict.cache_clear()
    cut = checked(derivation, seconds=0)
    parts = [part for one in (cut, *cut.solutions) for part in (*one.claims, *one.steps)]
    assert {part.verdict.status for part in parts} == {Status.UNVERIFIED}
    assert all("ran out" in part.verdict.method for part in parts)
    whole = checked(derivation)  # no result that was cut short is cached
    assert {claim.verdict.status for claim in whole.claims} <= {Status.PROVED, Status.SAMPLED}


def test_where_time_is_short_few_points_count_for_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(step: Step) -> bool:
        raise OutOfTime

    step = made_up(sympy.sin(x[s, j]) ** 2 + sympy.cos(x[s, j]) ** 2, sympy.S.One)
    check._verdict.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(check, "_proved", late)
        verdict = check_step(step)
    assert verdict.status is Status.SAMPLED and verdict.method.endswith("when its time ran out")
    assert check_step(step).status is Status.PROVED  # the verdict that was cut short is not cached


def test_a_proof_without_end_is_left_for_samples_after_steps_whatever_time_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    power = sum(tensor(name)[s, j] for name in "xyuv") ** 16
    verdict = check_step(made_up(power, power * sympy.sin(x[s, j]) ** 2 + power * sympy.cos(x[s, j]) ** 2))
    assert verdict.status is Status.SAMPLED


def test_a_map_whose_kappa_must_exceed_a_number_of_the_layer_is_proved() -> None:
    layer = loads_spec(
        'name = "twice"\nsizes = ["n", "m"]\n[input]\nx = ["n"]\n[parameters]\nW = ["m", "n"]\nb = ["m"]\n'
        '[output]\nz = ["m"]\nformula = "z[i] = 2*(sum[j](W[i, j]*x[j]) + b[i])"\n'
    )
    (found,) = (found for found in derive.solve(layer) if found.kind == "normalising")
    assert found.kappa_above == 4
    assert {step.verdict.status for step in checked_map(found).steps} == {Status.PROVED}
