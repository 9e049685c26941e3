"""Update rules other than plain SGD, and their effect on the activations (theory, section 7).

Each rule replaces the parameter step; the change of the activation then follows from the same parameter gradients.
Only layers that are linear in their parameters are supported; for them the statements are exact in eta.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import sympy
from sympy import Add, Expr, Indexed, KroneckerDelta, Mul, Symbol

from derive.algebra.nodes import IndexedSum, PartialDerivative, rename, tensor
from derive.algebra.normal import normalise
from derive.algebra.present import presentable
from derive.deriver import Deriver, eta
from derive.forward_map import LayerError
from derive.record import Derivation, SelfFactor, Step

mu = Symbol("mu", positive=True)
lam = Symbol("lambda", positive=True)

Rule = Callable[[Deriver, Derivation], Derivation]


def under_rule(deriver: Deriver, rule: str) -> Derivation:
    """Derive the effective update under a named rule; raise LayerError for an unknown rule or an unsuitable layer."""
    from derive.optimisers import OPTIMISERS

    known = {**RULES, **OPTIMISERS}
    if rule not in known:
        raise LayerError(f"unknown update rule {rule!r}; known: sgd, {', '.join(known)}")
    base = deriver.derivation()
    if not base.exact_in_eta:
        raise LayerError(
            f"rule {rule!r} is derived for layers linear in their parameters; {deriver.layer.name!r} is not: use 'sgd'"
        )
    return replace(known[rule](deriver, base), rule=rule)


def moved_by(deriver: Deriver, step: Callable[[str, Indexed], Expr]) -> Expr:
    """Return the change of the activation when each parameter entry moves by ``step``, for a layer linear in them."""
    return Add(
        *(
            IndexedSum(PartialDerivative(deriver.output.entry, entry) * step(name, entry), *entry.indices)
            for name, entry in deriver.entries.items()
        )
    )


def kept_steps(base: Derivation) -> tuple[Step, ...]:
    """Return the steps up to the loss gradients, which no rule changes."""
    return tuple(s for s in base.steps if "/sgd-step" not in s.id and s.id.split("/")[-1] not in _AFTER)


_AFTER = ("activation-change", "update-kernel", "self-factor", "cross-terms")


def _plain(deriver: Deriver) -> Expr:
    """Return ``-eta sum K g`` in normal form."""
    return -eta * normalise(weighted(deriver, deriver.unfactored_kernel))


def weighted(deriver: Deriver, kernel: Expr) -> Expr:
    """Return a kernel applied to the loss gradient."""
    return IndexedSum(kernel * rename(deriver.cotangent, deriver.primes), *deriver.primes.values())


def rule_step(deriver: Deriver, name: str, rule: str, before: Expr, after: Expr) -> Step:
    """Return the step that says how a rule changes the activation."""
    change = tensor(deriver.output.name + "'")[deriver.output.indices] - deriver.output.entry
    return deriver.step(name, rule, change, before, after)


def _momentum(deriver: Deriver, base: Derivation) -> Derivation:
    """``W' = W - eta (mu M + G)``: past gradients act through the same kernel, with old inputs against the new."""

    def moved(name: str, entry: Indexed) -> Expr:
        velocity = tensor(f"M_{name}")[entry.indices]
        return -eta * (mu * velocity + deriver.by_loss(PartialDerivative(deriver.output.entry, entry)))

    carried = Add(
        *(
            normalise(IndexedSum(deriver.gradients[name] * tensor(f"M_{name}")[entry.indices], *entry.indices))
            for name, entry in deriver.entries.items()
        )
    )
    rule = "move every parameter by `-eta` times (its gradient and `mu` times `M`, the velocity from past steps)"
    step = rule_step(deriver, "momentum-change", rule, moved_by(deriver, moved), _plain(deriver) - eta * mu * carried)
    return replace(base, steps=(*kept_steps(base), step), assumptions=("M holds the velocity of past steps",))


def _weight_decay(deriver: Deriver, base: Derivation) -> Derivation:
    """``W' = W - eta (G + lambda W)`` for tensors of two or more axes: the weight part shrinks the activation."""

    def moved(name: str, entry: Indexed) -> Expr:
        decay = lam * entry if len(entry.indices) > 1 else sympy.S.Zero
        return -eta * (decay + deriver.by_loss(PartialDerivative(deriver.output.entry, entry)))

    shrinking = Add(
        *(
            normalise(IndexedSum(deriver.gradients[name] * entry, *entry.indices))
            for name, entry in deriver.entries.items()
            if len(entry.indices) > 1
        )
    )
    rule = "move every weight by `-eta` times (its gradient and `lambda` times itself); biases do not decay"
    step = rule_step(
        deriver, "weight-decay-change", rule, moved_by(deriver, moved), _plain(deriver) - eta * lam * shrinking
    )
    return replace(base, steps=(*kept_steps(base), step), assumptions=("parameters with one axis do not decay",))


def _sign(deriver: Deriver, base: Derivation) -> Derivation:
    """``W' = W - eta sign(G)`` for one sample, Adam's limit: the direction of g is lost, another factor appears."""
    units = {i: i.primed() for i in deriver.units}
    weight = rename(deriver.cotangent, units)

    def gradient(entry: Indexed) -> Expr:
        slope = PartialDerivative(rename(deriver.output.entry, units), entry)
        return IndexedSum(weight * slope, *units.values())

    def derived(name: str, entry: Indexed) -> Expr:
        own = normalise(IndexedSum(weight * rename(deriver.gradients[name], units), *units.values()))
        return normalise(IndexedSum(deriver.gradients[name] * sympy.sign(own), *entry.indices))

    before = moved_by(deriver, lambda name, entry: -eta * sympy.sign(gradient(entry)))
    total = Add(*(derived(name, entry) for name, entry in deriver.entries.items()))
    after = -eta * presentable(total, deriver.layer.scope)
    step = rule_step(
        deriver,
        "sign-change",
        "move every parameter by `eta` against the sign of this sample's gradient",
        before,
        after,
    )
    factor = presentable(normalise(total / sympy.sign(deriver.cotangent)), deriver.layer.scope)
    return replace(
        base,
        steps=(*kept_steps(base), step),
        self_factor=replace(base.self_factor, expression=factor),
        assumptions=("one sample in the batch", "the self factor multiplies sign(g), not g"),
    )


def _nlms(deriver: Deriver, base: Derivation) -> Derivation:
    """Divide each sample's gradient by its self factor: the activation moves by -eta g, the forward map stays."""
    if base.self_factor.shape == "full":
        raise LayerError(f"rule 'nlms' needs a scalar or diagonal self factor; that of {deriver.layer.name!r} is full")
    own = rename(base.self_factor.expression, deriver.primes)
    weight = rename(deriver.cotangent, deriver.primes) / own

    def moved(name: str, entry: Indexed) -> Expr:
        slope = PartialDerivative(rename(deriver.output.entry, deriver.primes), entry)
        return -eta * IndexedSum(weight * slope, *deriver.primes.values())

    kernel = deriver.unfactored_kernel / own
    after = -eta * normalise(weighted(deriver, kernel))
    rule = "divide the gradient of each sample by that sample's self factor before it moves the parameters"
    step = rule_step(deriver, "nlms-change", rule, moved_by(deriver, moved), after)
    together = {deriver.primes[i]: i for i in deriver.samples}
    here = rename(deriver.kernel_entry, together)
    deltas = Mul(*(KroneckerDelta(i, deriver.primes[i]) for i in deriver.units))
    aligned = deriver.step("nlms-self-factor", "set both samples equal", here, rename(kernel, together), deltas)
    return replace(
        base,
        steps=(*kept_steps(base), step, aligned),
        kernel=base.kernel / own,
        cross_terms=base.cross_terms / own,
        self_factor=SelfFactor(sympy.S.One, "isotropic", True),
        assumptions=("the self factor of no sample is zero",),
    )


def _foof(deriver: Deriver, base: Derivation) -> Derivation:
    """Precondition by the inputs' second moment: where ``g = (K + lambda) h`` the activation moves by ``-eta K h``.

    Stated without an inverse: let J be the parameter gradients and D the step that solves ``(J^T J + lambda) D = J^T
    g``. Then ``D = J^T h`` solves it, and ``J D = K h``; at lambda = 0 that is ``g`` itself, wherever K is invertible.
    """
    h = tensor("h_foof")[deriver.output.indices]
    kernel = deriver.unfactored_kernel
    solved = lam * h + IndexedSum(kernel * rename(h, deriver.primes), *deriver.primes.values())
    change = -eta * normalise(IndexedSum(kernel * rename(h, deriver.primes), *deriver.primes.values()))
    equations = tuple(_normal_equation(deriver, name, h, solved) for name in deriver.entries)

    def moved(name: str, entry: Indexed) -> Expr:
        return -eta * _pulled(deriver, PartialDerivative(deriver.output.entry, entry), h)

    rule = "the step `D` that `h` makes moves the activation by `-eta` times the update kernel applied to `h`"
    step = rule_step(deriver, "foof-change", rule, moved_by(deriver, moved), change)
    rule = "at `lambda = 0` the kernel applied to `h` is `g`, and the change is `-eta*g`"
    aligned = rule_step(deriver, "foof-aligned", rule, change, -eta * (solved - lam * h))
    deltas = Mul(*(KroneckerDelta(i, j) for i, j in deriver.primes.items()))
    return replace(
        base,
        steps=(*kept_steps(base), *equations, step, aligned),
        kernel=deltas,
        cross_terms=sympy.S.Zero,
        self_factor=SelfFactor(sympy.S.One, "isotropic", True),
        assumptions=(
            "lambda = 0 and K invertible (the rows [x_s; 1] independent, so B <= n + 1 for an affine map); otherwise "
            "the change is -eta K (K + lambda)^-1 g, a damped projection",
        ),
    )


def _pulled(deriver: Deriver, slope: Expr, weight: Expr) -> Expr:
    """Return ``(J^T weight)`` at one parameter entry: the slope times the weight, summed over all outputs."""
    return IndexedSum(rename(slope * weight, deriver.primes), *deriver.primes.values())


def _normal_equation(deriver: Deriver, name: str, h: Expr, solved: Expr) -> Step:
    """``(J^T J + lambda) J^T h = J^T (K + lambda) h`` at the entries of one parameter."""
    entry = deriver.entries[name]
    step = {n: _pulled(deriver, slope, h) for n, slope in deriver.gradients.items()}
    through = Add(*(IndexedSum(deriver.gradients[n] * step[n], *deriver.entries[n].indices) for n in deriver.entries))
    left = _pulled(deriver, deriver.gradients[name], _fresh_bounds(through)) + lam * step[name]
    right = _pulled(deriver, deriver.gradients[name], solved)
    rule = "the parameter gradients summed with the weights `h` solve the normal equations of FOOF"
    return deriver.step(f"foof-normal-equation-{name}", rule, tensor(f"D_{name}")[entry.indices], left, right)


def _fresh_bounds(expression: Expr) -> Expr:
    """Return a sum of sums in which every bound index is fresh, for use under further sums."""
    if isinstance(expression, IndexedSum):
        body, bound = expression.renamed()
        return IndexedSum(body, *bound)
    return expression.func(*(_fresh_bounds(a) for a in expression.args)) if expression.is_Add else expression


RULES: dict[str, Rule] = {
    "momentum": _momentum,
    "weight-decay": _weight_decay,
    "sign": _sign,
    "nlms": _nlms,
    "foof": _foof,
}
