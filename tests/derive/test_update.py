"""Results that the engine derives from forward maps alone, against the formulas of the theory.

These formulas are the ground truth that the engine must reach; they use the layer's own names.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import sympy
import torch
from sympy import Expr, KroneckerDelta, Mul, Symbol, exp, sqrt

import derive
from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, Within, tensor
from derive.declare import forward
from derive.forward_map import BATCH as s
from derive.forward_map import Layer, LayerError
from tests.derive.algebra.brute import value
from tests.derive.references import CLOSE, Named, Reference, Sizes, Trial, affine
from tests.derive.test_layers import TRIALS


def index(name: str, size: str) -> Index:
    return Index(name, size_symbol(size))


i, i_, j, l, l_ = index("i", "m"), index("i'", "m"), index("j", "n"), index("l", "S"), index("l'", "S")
c, o, h, a = index("c", "C"), index("o", "O"), index("h", "d"), index("a", "k")
r, t, t_, k = index("r", "R"), index("t", "T"), index("t'", "T"), index("k", "S")
n, m, d = size_symbol("n"), size_symbol("m"), size_symbol("d")
s_ = s.primed()
x, y, z, u, v, q, K, A, U, E, b, gamma = (
    tensor(name) for name in ("x", "y", "z", "u", "v", "q", "k", "A", "U", "E", "b", "gamma")
)
same = KroneckerDelta(i, i_)


def total(body: Expr, *bound: Index) -> Expr:
    return IndexedSum(body, *bound)


def patch(axes: tuple[str, ...], *lead: Index, primed: bool = False) -> tuple[Expr, tuple[Index, ...]]:
    """The entry of a patch under a convolution, zero outside the image, and the indices that run over the patch."""
    taps, reads, guards = [], [], []
    for axis in axes:
        tap, position = index(f"k{axis}", f"K{axis}"), index(f"p{axis}" + "'" * primed, f"P{axis}")
        padding = Symbol(f"padding{axis}", integer=True, nonnegative=True)
        reads.append(size_symbol(f"stride{axis}") * position + size_symbol(f"dilation{axis}") * tap - padding)
        guards.append(Within(reads[-1], size_symbol(f"L{axis}")))
        taps.append(tap)
    return Mul(x[(s_ if primed else s, *lead, c, *reads)], *guards), (c, *taps)


def patch_energy(axes: tuple[str, ...], *lead: Index) -> Expr:
    entry, bound = patch(axes, *lead)
    return total(entry**2, *bound) + 1


def spread_energy(axes: tuple[str, ...]) -> Expr:
    """The squares of every input entry that reaches an output of the transposed convolution, once per kernel entry."""
    taps, places, meets = [], [], []
    for axis in axes:
        tap, place = index(f"k{axis}", f"K{axis}"), index(f"p{axis}", f"L{axis}")
        padding = Symbol(f"padding{axis}", integer=True, nonnegative=True)
        step, reach = size_symbol(f"stride{axis}"), size_symbol(f"dilation{axis}")
        meets.append(KroneckerDelta(index(f"q{axis}", f"Q{axis}"), step * place + reach * tap - padding))
        taps.append(tap)
        places.append(place)
    return total(Mul(x[(s, c, *places)] ** 2, *meets), c, *taps, *places) + 1


square = total(x[s, j] ** 2, j)
queries, keys = total(u[s, r, t, h] ** 2, h), total(K[s, r, l, h] ** 2, h)
tokens, answers = total(x[s, t, j] ** 2, j) + 1, total(y[s, l, j] ** 2, j) + 1
cosine_squared = total(u[s, r, t, h] * K[s, r, l, h], h) ** 2 / (queries * keys)
weights = E[s, r, t, k] / total(E[s, r, t, l], l)
mixed_energy = total(total(weights * y[s, k, j], k) ** 2, j) + 1
sigma = 1 / (1 + exp(-v[s, i]))
after_affine = total(z[s, i] ** 2, i)
bag, bag_ = index("p", "T"), index("q", "T")
token = tensor("t", values=size_symbol("V"))


@dataclass(frozen=True)
class Expected:
    """A row of the table: the self factor, its shape, whether it is free of parameters, and the order in eta."""

    factor: Expr
    shape: str = "isotropic"
    parameter_free: bool = True
    order: int | None = 1


THEORY: dict[str, Expected] = {
    "linear": Expected(square),
    "affine": Expected(square + 1),
    "convolution-1d": Expected(patch_energy(("",))),
    "convolution": Expected(patch_energy(("h", "w"))),
    "convolution-3d": Expected(patch_energy(("d", "h", "w"))),
    "grouped-convolution": Expected(patch_energy(("h", "w"), index("g", "G")), "diagonal"),
    "transposed-convolution-1d": Expected(spread_energy(("",))),
    "transposed-convolution": Expected(spread_energy(("h", "w"))),
    "transposed-convolution-3d": Expected(spread_energy(("d", "h", "w"))),
    "embedding": Expected(sympy.S.One),
    "embedding-bag": Expected(total(KroneckerDelta(token[s, bag], token[s, bag_]), bag, bag_)),
    "attention-projection": Expected(tokens),
    "attention-output": Expected(total(tensor("c")[s, r, t, h] ** 2, r, h) + 1),
    "attention-value": Expected(mixed_energy, "diagonal"),
    "attention": Expected((keys * tokens + queries * answers) / d, "diagonal", False, 2),
    "qk-norm>attention": Expected((1 - cosine_squared) * (tokens / queries + answers / keys), "diagonal", False, None),
    "low-rank": Expected(
        square * total(U[i, a] * U[i_, a], a) + same * total(tensor("a")[s, a] ** 2, a), "full", False, 2
    ),
    "gated": Expected((sigma**2 + u[s, i] ** 2 * (sigma * (1 - sigma)) ** 2) * square, "diagonal", False, None),
    "gain": Expected(x[s, index("i", "n")] ** 2 + 1, "diagonal"),
    "l2-norm>affine": Expected(sympy.Integer(2)),
    "rms-norm>affine": Expected(n + 1),
    "layer-norm>affine": Expected(n + 1),
    "batch-norm>affine": Expected(total(tensor("y")[s, j] ** 2, j) + 1),
    "affine>rms-norm": Expected(
        m / after_affine * (square + 1) * (same - z[s, i] * z[s, i_] / after_affine), "full", False, None
    ),
    "affine>l2-norm": Expected(
        (square + 1) / after_affine * (same - z[s, i] * z[s, i_] / after_affine), "full", False, None
    ),
    "l2-norm>linear>gain": Expected(gamma[i] ** 2 + z[s, i] ** 2 + 1, "diagonal", False, 2),
}
NAMES_OF_UNITS = {"affine>rms-norm": {"j": "i"}, "affine>l2-norm": {"j": "i"}}

rows = pytest.mark.parametrize("name", THEORY)


def in_theory_words(name: str, expression: Expr) -> Expr:
    """The engine's expression with the unit index named ``i``, as in the table."""
    for old, new in NAMES_OF_UNITS.get(name, {}).items():
        expression = expression.xreplace({index(old + p, "m"): index(new + p, "m") for p in ("", "'")})
    return expression


@rows
def test_the_self_factor_is_the_one_of_the_theory(name: str) -> None:
    layer = derive.layer(name)
    factor = derive.effective_update(layer).self_factor
    expected = THEORY[name]
    found = in_theory_words(name, factor.expression)
    assert equal(expand_definitions(found, layer.scope), expand_definitions(expected.factor, layer.scope))
    assert (factor.shape, factor.parameter_free) == (expected.shape, expected.parameter_free)
    assert factor.isotropic is (expected.shape == "isotropic")


@rows
def test_the_order_in_eta(name: str) -> None:
    derivation = derive.effective_update(derive.layer(name))
    assert derivation.order_in_eta == THEORY[name].order
    assert derivation.exact_in_eta is (THEORY[name].order == 1)


@pytest.mark.parametrize("name", ["layer-norm", "rms-norm", "l2-norm", "batch-norm"])
def test_a_normaliser_after_an_affine_map_is_a_residual(name: str) -> None:
    factor = derive.effective_update(derive.layer(f"affine>{name}")).self_factor
    assert (factor.shape, factor.parameter_free) == ("diagonal" if name == "batch-norm" else "full", False)


UNITS = {
    "affine": ("s", "i"),
    "convolution": ("s ph pw", "o"),
    "grouped-convolution": ("s ph pw", "g o"),
    "transposed-convolution-1d": ("s q", "o"),
    "embedding": ("s p", "i"),
    "attention": ("s t l", "r"),
    "attention-projection": ("s t", "r h"),
    "attention-value": ("s t", "r h"),
    "attention-output": ("s t", "i"),
    "low-rank": ("s", "i"),
}


@pytest.mark.parametrize("name", UNITS)
def test_samples_and_units_follow_from_the_forward_map(name: str) -> None:
    derivation = derive.effective_update(derive.layer(name))
    assert tuple(" ".join(e.name for e in part) for part in (derivation.samples, derivation.units)) == UNITS[name]


def test_cross_terms() -> None:
    dot = total(x[s, j] * x[s_, j], j)
    assert equal(derive.effective_update(derive.layer("affine")).kernel, KroneckerDelta(i, i_) * (dot + 1))
    here, bound = patch(("",))
    there, _ = patch(("",), primed=True)
    convolution = derive.effective_update(derive.layer("convolution-1d"))
    assert equal(convolution.cross_terms, total(here * there, *bound) + 1)
    scores = derive.effective_update(derive.layer("attention"))
    inputs = total(x[s, t, j] * x[s_, t_, j], j) + 1, total(y[s, l, j] * y[s_, l_, j], j) + 1
    heads = total(K[s, r, l, h] * K[s_, r, l_, h], h), total(u[s, r, t, h] * u[s_, r, t_, h], h)
    assert equal(scores.cross_terms, (heads[0] * inputs[0] + heads[1] * inputs[1]) / d)


LINEAR_ONCE = [
    name
    for name, made in TRIALS.items()
    if made.layer.name.startswith(
        ("linear", "affine", "convolution", "grouped", "transposed", "attention-p", "attention-o")
    )
    and ">" not in made.layer.name
]


@pytest.mark.parametrize("name", LINEAR_ONCE)
def test_the_general_law(name: str) -> None:
    """The self factor is the layer's own operator on squares, with every weight one."""
    made = TRIALS[name]
    ones = {p.name: torch.ones_like(made.tensors[p.name]) for p in made.layer.parameters}
    on_squares = made.output(**{t.name: made.tensors[t.name] ** 2 for t in made.layer.inputs}, **ones)
    factor = derive.effective_update(made.layer).self_factor.expression
    world = made.world()
    for place, _ in made.places(most=30):
        at = dict(zip(made.layer.output.indices, place, strict=True))
        assert value(factor, at, world) == pytest.approx(float(on_squares[place]), rel=CLOSE)


LAW = {"embedding-bag": False, "attention-value": False, "low-rank": False, "gated": False, "attention": False}
LAW |= {TRIALS[name].layer.name: True for name in LINEAR_ONCE} | {"embedding": True, "gain": True}


@pytest.mark.parametrize("name", LAW)
def test_the_general_law_is_stated_where_it_holds(name: str) -> None:
    steps = derive.effective_update(derive.layer(name)).check().steps
    stated = [step.verdict.status.value for step in steps if step.id.endswith("/general-law")]
    assert stated == ["proved"] * LAW[name]


def test_the_mean_self_factor_after_a_batch_norm_is_constant() -> None:
    step = derive.effective_update(derive.layer("batch-norm>affine")).step("mean-self-factor")
    assert step.after == n + 1


@dataclass(frozen=True)
class Variant:
    """A forward map that is in no table: its formula, its reference, and the expected self factor."""

    formulas: tuple[str, ...]
    reference: Reference
    factor: Expr
    inputs: tuple[str, ...] = ("x",)
    parameters: tuple[str, ...] = ("W", "b")
    shape: str = "isotropic"
    order: int | None = 1

    def trial(self) -> Trial:
        axes = {"W": "m n", "b": "m", "x": "n", "y": "n", "V": "m n", "past": "m"}
        made = forward(
            "unseen",
            sizes="n m",
            inputs={name: axes[name] for name in self.inputs},
            parameters={name: axes[name] for name in self.parameters},
            formulas=self.formulas,
        )
        return Trial(made, self.reference, {"B": 2, "n": 3, "m": 2})


def changed(function: str, **constants: float) -> Reference:
    """References that differ from the affine map in their input, weight or bias."""

    def reference(v: Named, sizes: Sizes) -> torch.Tensor:
        moved = {
            "x": v["x"] * constants.get("x", 1.0) + constants.get("shift", 0.0),
            "W": v["W"] * constants.get("W", 1.0),
        }
        bias = v.get("b", torch.zeros(sizes["m"], dtype=torch.float64)) * constants.get("b", 1.0)
        return affine({**v, **moved, "b": bias}, sizes) * constants.get("z", 1.0)

    reference.__name__ = function
    return reference


def first_column_twice(v: Named, sizes: Sizes) -> torch.Tensor:
    return affine(v, sizes) + v["W"][:, 0]


def two_inputs(v: Named, sizes: Sizes) -> torch.Tensor:
    return affine(v, sizes) + v["y"] @ v["W"].T


def skipping(v: Named, sizes: Sizes) -> torch.Tensor:
    return affine(v, sizes) + v["past"] ** 2


def tied(v: Named, sizes: Sizes) -> torch.Tensor:
    return (v["x"] @ v["W"].T) * v["b"]


def squared(v: Named, sizes: Sizes) -> torch.Tensor:
    return v["x"] @ (v["W"] ** 2).T


def two_weights(v: Named, sizes: Sizes) -> torch.Tensor:
    return v["x"] @ v["W"].T + (v["x"] ** 2) @ v["V"].T


def rectified(v: Named, sizes: Sizes) -> torch.Tensor:
    return affine(v, sizes).tanh()


W, V = tensor("W"), tensor("V")
pre = total(W[i, j] * x[s, j], j)
UNSEEN: dict[str, Variant] = {
    "no bias": Variant(("z[i] = sum[j](W[i, j]*x[j])",), changed("none", b=0.0), square, parameters=("W",)),
    "twice the bias": Variant(("z[i] = sum[j](W[i, j]*x[j]) + 2*b[i]",), changed("b", b=2.0), square + 4),
    "three times x": Variant(("z[i] = sum[j](W[i, j]*3*x[j]) + b[i]",), changed("x", x=3.0), 9 * square + 1),
    "x through an intermediate": Variant(
        ("y[j] = 3*x[j]", "z[i] = sum[j](W[i, j]*y[j]) + b[i]"), changed("y", x=3.0), 9 * square + 1
    ),
    "minus": Variant(("z[i] = -sum[j](W[i, j]*x[j]) - b[i]",), changed("z", z=-1.0), square + 1),
    "half of it": Variant(("z[i] = (sum[j](W[i, j]*x[j]) + b[i])/2",), changed("z", z=0.5), (square + 1) / 4),
    "a shifted input": Variant(
        ("z[i] = sum[j](W[i, j]*(x[j] + 1)) + b[i]",), changed("shift", shift=1.0), total((x[s, j] + 1) ** 2, j) + 1
    ),
    "a root of a size": Variant(
        ("z[i] = sum[j](W[i, j]*x[j])/sqrt(n) + b[i]",), changed("W", W=3**-0.5), square / n + 1
    ),
    "a column used twice": Variant(
        ("z[i] = sum[j](W[i, j]*x[j]) + W[i, 0] + b[i]",), first_column_twice, square + 2 * x[s, 0] + 2
    ),
    "a weight used twice": Variant(
        ("z[i] = sum[j](W[i, j]*x[j]) + sum[j](W[i, j]*y[j]) + b[i]",),
        two_inputs,
        total((x[s, j] + y[s, j]) ** 2, j) + 1,
        inputs=("x", "y"),
    ),
    "a skip connection": Variant(
        ("z[i] = past[i]**2 + sum[j](W[i, j]*x[j]) + b[i]",), skipping, square + 1, inputs=("x", "past")
    ),
    "two weights": Variant(
        ("z[i] = sum[j](W[i, j]*x[j]) + sum[j](V[i, j]*x[j]**2)",),
        two_weights,
        square + total(x[s, j] ** 4, j),
        parameters=("W", "V"),
    ),
    "a product of parameters": Variant(
        ("z[i] = sum[j](W[i, j]*x[j])*b[i]",), tied, b[i] ** 2 * square + pre**2, shape="diagonal", order=2
    ),
    "a squared weight": Variant(
        ("z[i] = sum[j](W[i, j]**2*x[j])",),
        squared,
        4 * total(W[i, j] ** 2 * x[s, j] ** 2, j),
        parameters=("W",),
        shape="diagonal",
        order=2,
    ),
    "a function outside": Variant(
        ("z[i] = tanh(sum[j](W[i, j]*x[j]) + b[i])",),
        rectified,
        (1 - sympy.tanh(pre + b[i]) ** 2) ** 2 * (square + 1),
        shape="diagonal",
        order=None,
    ),
}

unseen = pytest.mark.parametrize("variant", UNSEEN.values(), ids=UNSEEN.keys())


@unseen
def test_nothing_is_written_down(variant: Variant) -> None:
    made = variant.trial()
    derivation = derive.effective_update(made.layer)
    assert equal(expand_definitions(derivation.self_factor.expression, made.layer.scope), variant.factor)
    assert derivation.self_factor.shape == variant.shape
    assert derivation.order_in_eta == variant.order
    kernel, world, indices = made.kernel(), made.world(), made.layer.output.indices
    for here, there in made.places():
        at = dict(zip((*indices, *(e.primed() for e in indices)), here + there, strict=True))
        assert value(derivation.kernel, at, world) == pytest.approx(float(kernel[here + there]), rel=CLOSE, abs=CLOSE)


@unseen
def test_the_maps_of_unseen_layers_follow(variant: Variant) -> None:
    solutions = derive.solve(variant.trial().layer)
    if variant.order != 1:
        assert not solutions.maps and "parameters" in solutions.refusals[0].reason
        return
    for found in solutions:
        assert found.residual == 0
        derived = derive.effective_update(found.mapped)
        assert equal(expand_definitions(derived.self_factor.expression, found.mapped.scope), found.kappa)


@unseen
def test_every_step_of_unseen_layers_is_verified(variant: Variant) -> None:
    checked = derive.effective_update(variant.trial().layer).check()
    assert {step.verdict.status.value for step in checked.steps} <= {"proved", "sampled"}


def test_a_scalar_in_the_layer_enters_the_self_factor() -> None:
    alpha = Symbol("alpha", positive=True)
    layer = forward(
        "scaled",
        sizes="n m",
        inputs={"x": "n"},
        parameters={"W": "m n", "b": "m"},
        scalars="alpha",
        formulas=["z[i] = alpha*sum[j](W[i, j]*x[j]) + b[i]"],
    )
    assert equal(derive.effective_update(layer).self_factor.expression, alpha**2 * square + 1)
    assert all(found.residual == 0 for found in derive.solve(layer))


def test_an_axis_that_indexes_no_parameter_is_a_sample() -> None:
    layer = forward(
        "shared",
        sizes="n m",
        inputs={"x": "m n"},
        parameters={"w": "n"},
        formulas=["z[i] = sum[j](w[j]*x[i, j])"],
    )
    derivation = derive.effective_update(layer)
    assert [e.name for e in derivation.samples] == ["s", "i"] and not derivation.units
    assert equal(derivation.kernel, total(x[s, i, j] * x[s_, i_, j], j))


def uneven(made: Trial) -> torch.Tensor:
    """A gradient that differs in every entry: normalised outputs have no gradient of their plain sum."""
    z = made.output()
    return torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z)


def moved(layer: Layer, made: Trial, eta: float) -> torch.Tensor:
    """The change of the activation in one real step of gradient descent on ``sum(g z)``, with the input held fixed."""
    cotangent = uneven(made)
    new = {p.name: made.tensors[p.name] - eta * made.gradient(p.name, cotangent) for p in layer.parameters}
    return made.output(**new) - made.output()


@pytest.mark.parametrize("name", list(TRIALS))
def test_one_real_step_has_the_order_in_eta_that_is_stated(name: str) -> None:
    """The change is a polynomial in eta of the stated degree: the next difference vanishes, this one does not.

    Where no order is stated, the change is no polynomial of a low degree.
    """
    made = TRIALS[name]
    order = derive.effective_update(made.layer).order_in_eta
    changes = [moved(made.layer, made, 0.1 * step) for step in range((order or 4) + 2)]
    for _ in range(order or 4):
        changes = [after - before for before, after in pairwise(changes)]
    scale = float(changes[0].abs().max())
    assert scale > 1e-6
    assert torch.allclose(changes[0], changes[1], rtol=1e-8, atol=1e-8 * scale) == (order is not None)


def test_one_real_step_moves_the_activation_by_the_kernel() -> None:
    made = TRIALS["affine"]
    kernel = made.kernel()
    expected = -0.3 * torch.tensordot(kernel, uneven(made), dims=2)
    assert torch.allclose(moved(made.layer, made, 0.3), expected, rtol=1e-12)


def test_refusals() -> None:
    with pytest.raises(LayerError, match="depends on no parameter"):
        derive.effective_update(derive.layer("rms-norm"))
    with pytest.raises(LayerError, match="unknown update rule"):
        derive.effective_update(derive.layer("affine"), rule="adamant")
    with pytest.raises(KeyError, match="no step 'nothing'"):
        derive.effective_update(derive.layer("affine")).step("nothing")


def test_the_kernel_alone_is_that_of_the_derivation() -> None:
    layer = derive.layer("affine")
    assert derive.update_kernel(layer) == derive.effective_update(layer).kernel
    assert sqrt(derive.effective_update(layer).self_factor.expression).is_real
