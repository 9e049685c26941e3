"""Properties of maps against the same maps written in NumPy: each claim must hold in numbers.

Each row states a layer's features, offset and skip independently. The oracle builds the map from them and evaluates it
at many scales, in many directions, and at pairs of inputs that the row declares to have the same output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from derive.cancel import solve
from derive.declare import forward
from derive.forward_map import Layer
from derive.layers import layer
from derive.record import CancellingMap

Array = NDArray[np.float64]
Inputs = tuple[Array, ...]
KAPPA = 3.0
SIZES = {"n": 3, "k": 2, "m": 3}
NEAR, FAR = 1e-7, 1e7
rng = np.random.default_rng(3)


def zero(*inputs: Array) -> Array:
    return np.zeros(SIZES["m"])


@dataclass(frozen=True)
class Row:
    """A formula, its features and skip in NumPy, whether it has an offset of one, and pairs with the same output.

    ``norm_meets`` and ``affine_meets`` return another input with the same output, for the norm-like and the affine-like
    map.
    """

    formula: str
    features: Callable[..., Array]
    bias: bool = True
    skip: Callable[..., Array] = zero
    inputs: tuple[str, ...] = ("x: n",)
    weight: str = "m n"
    norm_meets: Callable[..., Inputs] | None = None
    affine_meets: Callable[..., Inputs] | None = None

    @property
    def layer(self) -> Layer:
        tensors = dict(text.split(": ") for text in self.inputs)
        parameters = {"W": self.weight, **({"b": self.weight.split()[0]} if self.bias else {})}
        formula = self.formula + (" + b[i]" if self.bias else "")
        return forward("drawn", sizes="n k m", inputs=tensors, parameters=parameters, formulas=[formula])

    def draw(self) -> Inputs:
        axes = [text.split(": ")[1].split() for text in self.inputs]
        drawn = tuple(rng.normal(size=[SIZES[a] for a in names]) for names in axes)
        for values in drawn:
            values.flat[0] = abs(values.flat[0])  # so that a rectified input is not nothing
        return drawn


def sums(body: str) -> str:
    return f"z[i] = sum[j](W[i, j]*({body}))"


def stretch(*inputs: Array) -> Inputs:
    return tuple(5 * v for v in inputs)


def negate(*inputs: Array) -> Inputs:
    return tuple(-v for v in inputs)


def other_negatives(x: Array) -> Inputs:
    return (np.where(x < 0, 3 * x, x),)


ROWS: dict[str, Row] = {
    "itself": Row(sums("x[j]"), lambda x: x, norm_meets=stretch),
    "itself, no bias": Row(sums("x[j]"), lambda x: x, bias=False, norm_meets=stretch),
    "a skip": Row("z[i] = x[i] + sum[j](W[i, j]*x[j])", lambda x: x, skip=lambda x: x, weight="n n"),
    "a skip, no bias": Row("z[i] = x[i] + sum[j](W[i, j]*x[j])", lambda x: x, False, lambda x: x, weight="n n"),
    "a bounded skip": Row("z[i] = tanh(x[i]) + sum[j](W[i, j]*x[j])", lambda x: x, True, np.tanh, weight="n n"),
    "tanh": Row(sums("tanh(x[j])"), np.tanh, norm_meets=lambda x: (np.arctanh(np.tanh(x) / 2),)),
    "exp": Row(sums("exp(x[j])"), np.exp, norm_meets=lambda x: (x + 1,)),
    "exp, no bias": Row(sums("exp(x[j])"), np.exp, bias=False, norm_meets=lambda x: (x + 1,)),
    "exp less one": Row(sums("exp(x[j]) - 1"), np.expm1, norm_meets=lambda x: (np.log1p(np.expm1(x) / 2),)),
    "square": Row(sums("x[j]**2"), np.square, norm_meets=stretch, affine_meets=negate),
    "cube": Row(sums("x[j]**3"), lambda x: x**3, norm_meets=stretch),
    "cube, no bias": Row(sums("x[j]**3"), lambda x: x**3, bias=False, norm_meets=stretch),
    "magnitude": Row(sums("abs(x[j])"), np.abs, norm_meets=stretch, affine_meets=negate),
    "rectified": Row(sums("max(x[j], 0)"), lambda x: x.clip(0), norm_meets=stretch, affine_meets=other_negatives),
    "clipped": Row(sums("max(x[j], -1)"), lambda x: x.clip(-1), norm_meets=None),
    "clipped twice": Row(sums("-max(-max(x[j], -1), -1)"), lambda x: x.clip(-1, 1)),
    "gelu": Row(sums("x[j]*(1 + tanh(x[j] + x[j]**3/20))"), lambda x: x * (1 + np.tanh(x + x**3 / 20))),
    "mish": Row(sums("x[j]*tanh(log(1 + exp(x[j])))"), lambda x: x * np.tanh(np.logaddexp(0, x))),
    "leaky": Row(sums("max(x[j], x[j]/8)"), lambda x: np.maximum(x, x / 8), norm_meets=stretch),
    "softplus": Row(sums("log(1 + exp(x[j]))"), lambda x: np.logaddexp(0, x), norm_meets=None),
    "sigmoid": Row(sums("1/(1 + exp(-x[j]))"), lambda x: 1 / (1 + np.exp(-x))),
    "swish": Row(sums("x[j]/(1 + exp(-x[j]))"), lambda x: x / (1 + np.exp(-x))),
    "cosine": Row(sums("cos(x[j])"), np.cos, norm_meets=negate, affine_meets=negate),
    "sine": Row(sums("sin(x[j])"), np.sin, norm_meets=lambda x: (x + 2 * np.pi,), affine_meets=lambda x: (np.pi - x,)),
    "shifted": Row(sums("x[j] - 1"), lambda x: x - 1, norm_meets=lambda x: (1 + 2 * (x - 1),)),
    "square and one": Row(sums("x[j]**2 + 1"), lambda x: x**2 + 1, norm_meets=negate, affine_meets=negate),
    "bell": Row(sums("exp(-x[j]**2)"), lambda x: np.exp(-(x**2)), norm_meets=negate, affine_meets=negate),
    "reciprocal": Row(sums("1/x[j]"), lambda x: 1 / x, norm_meets=stretch),
    "and its tanh": Row(sums("x[j] + tanh(x[j])"), lambda x: x + np.tanh(x)),
    "centred": Row(
        sums("x[j] - sum[q](x[q])/n"), lambda x: x - x.mean(), norm_meets=stretch, affine_meets=lambda x: (x + 2,)
    ),
    "over its energy": Row(sums("x[j]/sum[q](x[q]**2)"), lambda x: x / (x @ x), norm_meets=stretch),
    "a clipped norm": Row(
        sums("x[j]/max(1, sqrt(sum[q](x[q]**2)))"),
        lambda x: x / max(1.0, np.linalg.norm(x)),
        norm_meets=stretch,
        affine_meets=lambda x: (2 * x,),
    ),
    "bilinear": Row(
        "z[i] = sum[j, q](W[i, j, q]*x[j]*y[q])",
        np.outer,
        inputs=("x: n", "y: k"),
        weight="m n k",
        norm_meets=stretch,
        affine_meets=lambda x, y: (2 * x, y / 2),
    ),
    "bilinear, no bias": Row(
        "z[i] = sum[j, q](W[i, j, q]*x[j]*y[q])",
        np.outer,
        False,
        inputs=("x: n", "y: k"),
        weight="m n k",
        norm_meets=stretch,
    ),
    "products": Row(sums("x[j]*y[j]"), np.multiply, inputs=("x: n", "y: n"), norm_meets=stretch, affine_meets=negate),
    "a sum of two": Row(
        sums("x[j] + y[j]"),
        np.add,
        inputs=("x: n", "y: n"),
        norm_meets=stretch,
        affine_meets=lambda x, y: (x + 1, y - 1),
    ),
    "a frozen matrix": Row(
        "z[i] = sum[j](A[i, j]*x[j]) + sum[j](W[i, j]*x[j])",
        lambda x, A: x,
        skip=lambda x, A: A @ x,
        inputs=("x: n", "A: m n"),
        norm_meets=lambda x, A: (2 * x, A / 2),
    ),
    "behind a frozen matrix": Row(
        "z[i] = sum[q, j](W[i, q]*A[q, j]*x[j])",
        lambda x, A: A @ x,
        inputs=("x: n", "A: k n"),
        weight="m k",
        norm_meets=stretch,
        affine_meets=lambda x, A: (2 * x, A / 2),
    ),
    "all pairs": Row("z[i] = sum[j, q](W[i, j, q]*x[j]*x[q])", lambda x: np.outer(x, x), True, weight="m n n"),
}


@dataclass(frozen=True)
class Oracle:
    """A map at random parameters, in NumPy."""

    row: Row
    name: str
    W: Array
    b: Array

    def __call__(self, *inputs: Array) -> Array:
        read = self.row.features(*inputs)
        energy, offset = (read**2).sum(), float(self.row.bias)
        weights = np.tensordot(self.W, read, read.ndim)
        if self.name == "affine-like":
            return np.sqrt(KAPPA / (energy + offset)) * (weights + offset * self.b) + self.row.skip(*inputs)
        return np.sqrt((KAPPA - offset) / energy) * weights + offset * self.b + self.row.skip(*inputs)


def oracle(row: Row, name: str, seed: int = 0) -> Oracle:
    draw = np.random.default_rng(seed)
    axes = [SIZES[a] for a in row.weight.split()]
    return Oracle(row, name, draw.normal(size=axes), draw.normal(size=axes[0]))


def names(row: Row) -> list[str]:
    """The maps that a layer has: without an offset to scale, the affine-like map is the norm-like one."""
    return ["norm-like", "affine-like"] if row.bias else ["norm-like"]


CASES = [(key, name) for key, row in ROWS.items() for name in names(row)]
each = pytest.mark.parametrize(("key", "which"), CASES)
solved = cache(lambda key: solve(ROWS[key].layer))


@pytest.fixture
def found(key: str, which: str) -> CancellingMap:
    assert [found.name for found in solved(key)] == names(ROWS[key])
    return solved(key)[which]


@each
def test_scale_invariance(key: str, found: CancellingMap) -> None:
    row = ROWS[key]
    z, claim = oracle(row, found.name), found.established("scale_invariant")
    changes = []
    for scale in (0.1, 1.0, 3.0):
        inputs = tuple(scale * v for v in row.draw())
        changes.append(np.abs(z(*(7 * v for v in inputs)) - z(*inputs)).max())
    assert claim.value is bool(max(changes) < 1e-9), (claim, changes)


@each
def test_injectivity(key: str, found: CancellingMap) -> None:
    """If a pair is known, ``injective`` is not claimed; if it is denied, a pair is known or its kind is shown."""
    row, claim = ROWS[key], found.established("injective")
    meets = row.norm_meets if found.name == "norm-like" else row.affine_meets
    if meets is None:
        return
    inputs = row.draw()
    if key == "a clipped norm" and found.name == "affine-like":
        inputs = tuple(9 * v for v in inputs)
    others = meets(*inputs)
    for seed in range(3):
        z = oracle(row, found.name, seed)
        assert z(*others) == pytest.approx(z(*inputs), rel=1e-9)
    assert max(np.abs(a - b).max() for a, b in zip(inputs, others, strict=True)) > 1e-3
    assert claim.value is False, claim


@each
def test_what_is_called_injective_keeps_random_inputs_apart(key: str, found: CancellingMap) -> None:
    row, claim = ROWS[key], found.established("injective")
    if claim.value is not True:
        assert claim.value is False or claim.basis == "no counterexample"
        return
    meet = [stretch, negate, lambda *v: tuple(u + 1 for u in v), lambda *v: tuple(u[::-1] for u in v)]
    for move in [*meet, *(m for m in (row.norm_meets, row.affine_meets) if m)]:
        inputs = row.draw()
        with np.errstate(invalid="ignore"):
            gaps = [
                np.abs(z(*move(*inputs)) - z(*inputs)).max() for z in (oracle(row, found.name, s) for s in range(2))
            ]
        assert max(gaps) > 1e-6, move


@each
def test_singular_at_zero(key: str, found: CancellingMap) -> None:
    """The map is singular at zero if its limits along two directions differ."""
    row, claim = ROWS[key], found.established("singular_at_zero")
    z = oracle(row, found.name)
    ends = []
    for _ in range(4):
        direction = tuple(np.abs(v) + 0.1 for v in row.draw())
        ends.append(z(*(1e-9 * v for v in direction)))
    apart = max(np.abs(end - ends[0]).max() for end in ends)
    assert claim.value is bool(apart > 1e-4), (claim, apart)


@each
def test_singular_points_are_where_the_scale_has_no_value(key: str, found: CancellingMap) -> None:
    """The map is singular only at zero, unless more is stated; the stated conditions make the features vanish."""
    row = ROWS[key]
    if found.name == "affine-like":
        assert found.singular == ()
        return
    draws = [row.features(*map(np.abs, row.draw())) for _ in range(50)]
    least = min(float((read**2).sum()) for read in draws)
    assert least > 0
    at = {"cosine": np.pi / 2, "shifted": 1.0}.get(key, 0.0)
    if key in ("reciprocal", "over its energy", "a frozen matrix"):
        return
    vanishes = float((row.features(*(np.full_like(v, at) for v in row.draw())) ** 2).sum()) < 1e-20
    assert bool(found.singular) is vanishes, found.singular


def limit_value(found: CancellingMap, kind: str, row: Row, z: Oracle, inputs: Inputs) -> Array | None:
    """The value that a limit claims at inputs far along a ray, with factors from the limit and parts computed here."""
    limit = found.zero if kind == "zero" else found.infinity
    if limit.kind not in ("value", "length"):
        return None
    read = row.features(*inputs)
    weights = np.tensordot(z.W, read, read.ndim)
    if limit.kind == "length":
        weights = weights / np.sqrt((read**2).sum())
    symbols = {"kappa": KAPPA, **SIZES}
    signs = int(np.rint((read**2).sum())) if limit.kind == "value" else 0  # of features that tend to one or to zero

    def number(expression: object) -> float:
        plain = expression.replace(lambda e: type(e).__name__ == "IndexedSum", lambda e: signs)  # type: ignore[attr-defined]
        return float(plain.subs({s: symbols[s.name] for s in plain.free_symbols}))

    offset = number(limit.offset) * z.b if limit.offsets else 0.0
    return np.asarray(number(limit.factor) * weights + offset + row.skip(*inputs))


@each
@pytest.mark.parametrize("kind", ["zero", "infinity"])
def test_limits_hold_along_rays(key: str, found: CancellingMap, kind: str) -> None:
    row, z = ROWS[key], oracle(ROWS[key], found.name)
    limit = found.zero if kind == "zero" else found.infinity
    directions = row.draw()
    if limit.where != 1:  # the limit holds only on some rays, which include those of positive entries
        directions = tuple(np.abs(v) + 0.1 for v in directions)
    inputs = tuple((NEAR if kind == "zero" else FAR) * v for v in directions)
    with np.errstate(all="ignore"):
        expected = limit_value(found, kind, row, z, inputs)
        actual = z(*inputs)
    if expected is None:
        assert limit.kind != "unbounded" or np.abs(actual).max() > 1e3
        return
    assert actual == pytest.approx(expected, rel=1e-5, abs=1e-5)


@each
def test_bounds(key: str, found: CancellingMap) -> None:
    """An output called bounded stays below ``sqrt(kappa)`` times the length of the parameters that it uses."""
    row, z = ROWS[key], oracle(ROWS[key], found.name)
    length = np.sqrt((z.W**2).reshape(len(z.W), -1).sum(-1) + row.bias * z.b**2)
    worst = 0.0
    for scale in (1e-6, 1e-2, 1.0, 10.0, 1e3, 1e6):
        inputs = tuple(scale * v for v in row.draw())
        with np.errstate(all="ignore"):
            values = np.abs(z(*inputs))
        excess = (values - 1.0 * (key == "a bounded skip")) / length
        worst = max(worst, float(excess[np.isfinite(excess)].max(initial=0.0)))
    assert found.established("bounded").value is bool(worst <= np.sqrt(KAPPA) + 1e-9)


@pytest.mark.parametrize(
    ("place", "weights"), [("0", "m"), ("3*t + q", "m 2")], ids=["one entry", "gaps between windows"]
)
def test_a_layer_that_leaves_entries_out_is_not_injective(place: str, weights: str) -> None:
    formula = f"z[i] = W[i]*x[{place}] + b[i]" if weights == "m" else f"z[i, t] = sum[q](W[i, q]*x[{place}]) + b[i]"
    made = forward(
        "drawn",
        sizes="n k m p",
        inputs={"x": "n"},
        parameters={"W": weights, "b": "m"},
        formulas=[formula],
        axes="m" if weights == "m" else "m p",
    )
    claim = solve(made)["affine-like"].established("injective")
    assert claim.value is False and "no output depends" in claim.reason


def test_layers_of_integers_have_no_rays() -> None:
    (bag,) = solve(layer("embedding-bag"))
    assert (bag.scale_invariant, bag.singular_at_zero, bag.singular) == (None, False, ())
    assert bag.established("scale_invariant").basis == "not applicable"
    assert bag.injective is False and "reversed" in bag.established("injective").reason


def test_a_mixture_is_known_up_to_the_scale_of_its_weights() -> None:
    found = solve(layer("attention-value"))["affine-like"]
    assert found.injective is False and found.established("injective").reason == "`E` and twice `E` give one output"


WRONG = {
    "scale invariant": ("itself", "affine-like", test_scale_invariance, "scale_invariant"),
    "injective": ("square", "affine-like", test_injectivity, "injective"),
    "singular": ("exp", "norm-like", test_singular_at_zero, "singular_at_zero"),
    "bounded": ("a skip", "affine-like", test_bounds, "bounded"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_claim_is_noticed(name: str) -> None:
    from dataclasses import replace

    key, which, test, claim = WRONG[name]
    found = solved(key)[which]
    turned = tuple(replace(p, value=not p.value) if p.name == claim else p for p in found.properties)
    with pytest.raises(AssertionError):
        test(key, replace(found, properties=turned))
