"""Backward passes: the formulas of the theory's section 8, stated here and derived by the engine."""

from __future__ import annotations

import pytest
from sympy import Expr, KroneckerDelta, Rational, Symbol

import derive
from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, PartialDerivative, tensor
from derive.backward_pass import backward, cotangent, entry_of, free_letters
from derive.check import check_step
from derive.declare import forward
from derive.forward_map import BATCH as s
from derive.forward_map import Layer
from derive.record import CancellingMap, Step


def index(name: str, size: str) -> Index:
    return Index(name, size_symbol(size))


kappa = Symbol("kappa", positive=True)
s_, i, i_, j = s.primed(), index("i", "m"), index("i'", "m"), index("j", "n")
x, W, b, g, f, z = (tensor(name) for name in "xWbgfz")


def total(body: Expr, *bound: Index) -> Expr:
    return IndexedSum(body, *bound)


def gradients(layer: Layer) -> dict[str, tuple[Step, tuple[Index, ...]]]:
    """Each backward step by its tensor, with the indices of the entry."""
    found = {}
    for step in backward(layer):
        (entry,) = {inert.variable for inert in step.before.atoms(PartialDerivative)}
        found[str(entry.base.label)] = step, entry.indices
    return found


def affine_like() -> CancellingMap:
    return derive.solve(derive.layer("affine"))["affine-like"]


def same(layer: Layer, step: Step, formula: Expr) -> bool:
    """Whether the step ends in the formula, with intermediates and the output expanded on both sides."""
    scope = {**layer.scope, layer.output.base: layer.output}
    return equal(expand_definitions(step.after, scope), expand_definitions(formula, scope))


def test_the_affine_map() -> None:
    layer = derive.layer("affine")
    found = gradients(layer)
    (dx, (_, a)), (dW, (c, e)), (db, (h,)) = found["x"], found["W"], found["b"]
    assert same(layer, dx, total(g[s, i] * W[i, a], i))
    assert same(layer, dW, total(g[s, c] * x[s, e], s))
    assert same(layer, db, total(g[s, h], s))


def test_affine_like() -> None:
    """``dx = f W^T g - f^2/kappa (g.z) x``, ``dW = (f g)^T x``, ``db = sum f g``: with kappa = 1 as in the theory."""
    layer = affine_like().mapped
    found = gradients(layer)
    (dx, (_, a)), (dW, (c, e)), (db, (h,)) = found["x"], found["W"], found["b"]
    radial = f[s] ** 2 / kappa * total(g[s, i] * z[s, i], i) * x[s, a]
    assert same(layer, dx, f[s] * total(g[s, i] * W[i, a], i) - radial)
    assert not same(layer, dx, f[s] * total(g[s, i] * W[i, a], i) + radial)
    assert same(layer, dW, total(f[s] * g[s, c] * x[s, e], s))
    assert same(layer, db, total(f[s] * g[s, h], s))


def test_affine_like_needs_no_pre_activation() -> None:
    """``g.z = f (x.W^T g + b.g)``: a kernel saves x, W and one number per row."""
    layer = affine_like().mapped
    left = total(g[s, i] * z[s, i], i)
    right = f[s] * (total(x[s, j] * W[i, j] * g[s, i], i, j) + total(b[i] * g[s, i], i))
    output = {layer.output.base: layer.output}
    assert equal(expand_definitions(left, output), right)


def test_norm_like_is_the_tangent_projection() -> None:
    """``dx = f (v - (v.u) u)`` with ``v = W^T g`` and ``u = x/||x||``: nothing moves along the ray."""
    layer = derive.solve(derive.layer("affine"))["norm-like"].mapped
    found = gradients(layer)
    (dx, (_, a)), (db, (h,)) = found["x"], found["b"]
    square = total(x[s, j] ** 2, j)
    along = total(x[s, j] * W[i, j] * g[s, i], i, j) / square
    assert same(layer, dx, f[s] * (total(g[s, i] * W[i, a], i) - along * x[s, a]))
    assert same(layer, db, total(g[s, h], s))
    radial = total(dx.after.xreplace({a: j}) * x[s, j], j)
    scope = {**layer.scope, layer.output.base: layer.output}
    assert equal(expand_definitions(radial, scope), kappa * 0)


def test_patch_norm() -> None:
    """``dx = convT(f g, W) + 2 x boxT(t)`` with ``t_p = -f_p^2/(2 kappa) sum over o of g_op z_op``."""
    layer = derive.solve(derive.layer("convolution-1d"))["affine-like"].mapped
    dx, (_, c, l) = gradients(layer)["x"]
    o, k, p = index("o", "O"), index("k", "K"), index("p", "P")
    stride, dilation = size_symbol("stride"), size_symbol("dilation")
    padding = Symbol("padding", integer=True, nonnegative=True)
    meets = KroneckerDelta(l, stride * p + dilation * k - padding)
    pull = -Rational(1, 2) * f[s, p] ** 2 / kappa * total(g[s, o, p] * z[s, o, p], o)
    spread = total(f[s, p] * g[s, o, p] * W[o, c, k] * meets, o, k, p)
    formula = spread + 2 * x[s, c, l] * total(pull * meets, k, p)
    step = Step("patch-norm", "", dx.target, dx.after, formula, dx.scope)
    assert check_step(step).status.value in ("proved", "sampled")
    wrong = Step("patch-norm", "", dx.target, dx.after, spread + x[s, c, l] * total(pull * meets, k, p), dx.scope)
    assert check_step(wrong).status.value == "refuted"


def test_layer_norm_before_a_linear_map_is_blind_to_the_mean() -> None:
    """Adding a constant to every input moves nothing, so the gradient with respect to the input sums to zero."""
    layer = derive.layer("layer-norm>affine")
    dx, (_, a) = gradients(layer)["x"]
    summed = total(dx.after.xreplace({a: j}), j)
    vanishing = Step("sum", "", dx.target, summed, summed * 0, dx.scope)
    assert check_step(vanishing).status.value in ("proved", "sampled")


@pytest.mark.parametrize("name", ["affine", "convolution-1d", "attention", "gated", "low-rank", "batch-norm>affine"])
def test_the_steps_are_verified(name: str) -> None:
    for step in backward(derive.layer(name)):
        assert check_step(step).status.value in ("proved", "sampled"), step.id


def test_integers_have_no_gradient() -> None:
    assert [step.id for step in backward(derive.layer("embedding"))] == ["embedding/backward-dW"]


def test_ids_carry_a_prefix_when_asked() -> None:
    assert [step.id for step in backward(derive.layer("linear"), "mine")] == ["mine/backward-dx", "mine/backward-dW"]


def test_the_cotangent_meets_no_tensor_of_the_layer() -> None:
    layer = forward(
        "greedy",
        sizes="n m",
        inputs={"g": "n"},
        parameters={"W": "m n"},
        formulas=["z[i] = sum[j](W[i, j]*g[j])"],
    )
    assert str(cotangent(layer).base.label) == "g_z"
    for step in backward(layer):
        assert check_step(step).status.value == "proved"


def test_entries_have_names_that_the_layer_does_not_use() -> None:
    layer = derive.layer("affine")
    letters = free_letters(layer)
    assert not set(letters) & {"s", "i", "j"}
    entry = entry_of(layer.inputs[0], letters)
    assert entry.indices[0] == s and entry.indices[1].name == letters[0]


def test_another_forward_map_has_another_backward_pass() -> None:
    """No gradient is typed: three times the input gives three times the gradient."""
    layer = forward(
        "threefold",
        sizes="n m",
        inputs={"x": "n"},
        parameters={"W": "m n", "b": "m"},
        formulas=["z[i] = 3*sum[j](W[i, j]*x[j]) + 2*b[i]"],
    )
    found = gradients(layer)
    (dx, (_, a)), (dW, (c, e)), (db, (h,)) = found["x"], found["W"], found["b"]
    assert same(layer, dx, 3 * total(g[s, i] * W[i, a], i))
    assert same(layer, dW, 3 * total(g[s, c] * x[s, e], s))
    assert same(layer, db, 2 * total(g[s, h], s))
