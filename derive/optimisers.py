"""How optimisers of the literature move the activations of a layer that is linear in its parameters.

    normalised-gd      W' = W - eta G/|G|                 |G|^2 = g.K g, so the activation moves by -eta K g/sqrt(g.K g)
    clipped-gd         W' = W - eta min(1, c/|G|) G       Pascanu et al. 2013, arXiv:1211.5063
    adam               W' = W - eta G/(|G| + eps)         the first step; Kingma and Ba 2014, arXiv:1412.6980
    sgdp               W' = W - eta (P - W (W.P)/|W|^2)   P = G; Heo et al. 2020, arXiv:2006.08217, where it projects
    adamp              the same                           P is Adam's first step
    muon               W' = W - eta U V', G = U S V'      Jordan et al. 2024; one sample, where G has rank one
    spectral-clipping  the same with min(S, c)            Jiang et al. 2026, arXiv:2603.14315; one sample
    sven               the least step that moves every loss by -eta times itself      arXiv:2604.01279
    safe-radius        the plain step, and the rate pi/(max a - min a) that it must not pass      arXiv:2603.13552

``G`` is the gradient of the loss with respect to a parameter, ``K`` the update kernel, ``g`` the loss gradient at the
output. Tensors of one axis (biases) take the plain step in sgdp and adamp, and stay unchanged in muon and
spectral-clipping. The reported self factor is that of the plain step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import sympy
from sympy import Add, Expr, Indexed, Symbol

from derive.algebra.nodes import IndexedSum, PartialDerivative, rename, tensor
from derive.algebra.normal import normalise
from derive.algebra.present import presentable
from derive.algebra.reductions import Largest
from derive.deriver import Deriver, eta
from derive.forward_map import LayerError
from derive.record import Derivation, Step
from derive.rules import Rule, kept_steps, moved_by, rule_step, weighted

eps = Symbol("epsilon", positive=True)
limit = Symbol("c_max", positive=True)


def _gradient(deriver: Deriver, entry: Indexed) -> Expr:
    return deriver.by_loss(PartialDerivative(deriver.output.entry, entry))


def _energy(deriver: Deriver) -> tuple[Expr, Expr]:
    """Return the squared norm of the whole gradient, as written and as ``g.K g``."""
    squares = Add(*(IndexedSum(_gradient(deriver, e) ** 2, *e.indices) for e in deriver.entries.values()))
    indices = deriver.output.indices
    through = IndexedSum(deriver.cotangent * weighted(deriver, deriver.unfactored_kernel), *indices)
    return squares, normalise(through)


def _scaled_step(deriver: Deriver, base: Derivation, name: str, scale: Callable[[Expr], Expr], says: str) -> Derivation:
    """Derive a step along the gradient whose length depends on the norm of the whole gradient."""
    squares, energy = _energy(deriver)
    equal = deriver.step(
        f"{name}-norm", "the squared norm of the gradient is `g.K g`", tensor("G_norm")[0], squares, energy
    )
    before = moved_by(deriver, lambda _, entry: -eta * scale(squares) * _gradient(deriver, entry))
    after = -eta * scale(energy) * normalise(weighted(deriver, deriver.unfactored_kernel))
    return replace(base, steps=(*kept_steps(base), equal, rule_step(deriver, f"{name}-change", says, before, after)))


def _normalised(deriver: Deriver, base: Derivation) -> Derivation:
    says = "divide the step by the norm of the whole gradient"
    return _scaled_step(deriver, base, "normalised-gd", lambda squares: 1 / sympy.sqrt(squares), says)


def _clipped(deriver: Deriver, base: Derivation) -> Derivation:
    says = "shorten the step if the norm of the whole gradient exceeds `c_max`"
    return _scaled_step(deriver, base, "clipped-gd", lambda squares: sympy.Min(1, limit / sympy.sqrt(squares)), says)


def _alone(deriver: Deriver) -> Callable[[Expr], Expr]:
    """Return the gradient with respect to a parameter entry for a batch of one sample: a sum over units only."""
    units = {i: i.primed() for i in deriver.units}

    def gradient(slope: Expr) -> Expr:
        return IndexedSum(rename(deriver.cotangent, units) * rename(slope, units), *units.values())

    return gradient


def _adam_direction(gradient: Expr) -> Expr:
    return gradient / (sympy.Abs(gradient) + eps)


def _adam(deriver: Deriver, base: Derivation) -> Derivation:
    gradient = _alone(deriver)
    before = moved_by(
        deriver, lambda _, e: -eta * _adam_direction(gradient(PartialDerivative(deriver.output.entry, e)))
    )
    terms = (
        normalise(
            IndexedSum(
                deriver.gradients[name] * _adam_direction(normalise(gradient(deriver.gradients[name]))), *e.indices
            )
        )
        for name, e in deriver.entries.items()
    )
    says = "the first bias-corrected step: both moments come from this gradient, entry by entry"
    step = rule_step(deriver, "adam-change", says, before, -eta * presentable(Add(*terms), deriver.layer.scope))
    return replace(base, steps=(*kept_steps(base), step), assumptions=("one sample in the batch; the first step",))


def _projected(
    deriver: Deriver, base: Derivation, name: str, direction: Callable[[str, Expr, bool], Expr], says: str
) -> Derivation:
    """Derive a step without its component along each weight: ``P - W (W.P)/|W|^2`` for tensors of two or more axes."""

    def total(derived: bool) -> Expr:
        """Return the change of the output, from derived slopes or from inert ones."""
        terms = []
        for parameter, entry in deriver.entries.items():
            inert = PartialDerivative(deriver.output.entry, entry)
            slope = deriver.gradients[parameter] if derived else inert
            plain = IndexedSum(slope * direction(parameter, entry, derived), *entry.indices)
            terms.append(plain)
            if len(entry.indices) > 1:
                fresh = {i: i.fresh() for i in entry.indices}
                other = rename(entry * direction(parameter, entry, derived), fresh)
                along = IndexedSum(other, *fresh.values()) / IndexedSum(rename(entry**2, fresh), *fresh.values())
                terms.append(-along * IndexedSum(slope * entry, *entry.indices))
        return Add(*terms)

    after = -eta * presentable(normalise(total(True)), deriver.layer.scope)
    step = rule_step(deriver, f"{name}-change", says, -eta * total(False), after)
    return replace(base, steps=(*kept_steps(base), step), assumptions=("the projection is active",))


def _sgdp(deriver: Deriver, base: Derivation) -> Derivation:
    def direction(name: str, entry: Expr, derived: bool) -> Expr:
        """Return the gradient at an entry of a parameter."""
        return deriver.loss_gradients[name] if derived else _gradient(deriver, entry)

    return _projected(deriver, base, "sgdp", direction, "remove the component of the gradient along each weight")


def _adamp(deriver: Deriver, base: Derivation) -> Derivation:
    gradient = _alone(deriver)

    def direction(name: str, entry: Expr, derived: bool) -> Expr:
        """Return the direction of Adam's first step at an entry of a parameter."""
        slope = deriver.gradients[name] if derived else PartialDerivative(deriver.output.entry, entry)
        found = gradient(slope)
        return _adam_direction(normalise(found) if derived else found)

    says = "remove the component of Adam's first step along each weight"
    found = _projected(deriver, base, "adamp", direction, says)
    return replace(found, assumptions=("one sample in the batch; the first step; the projection is active",))


def _of_rank_one(deriver: Deriver, base: Derivation, name: str, scale: Callable[[Expr], Expr], says: str) -> Derivation:
    """Derive a rule on singular values for one sample: ``G = g x'`` has one nonzero singular value, ``|g| |x|``.

    Dividing ``G'G`` by it gives ``(G'G)^(1/2)``; dividing ``G`` by it gives its orthogonal factor ``U V'``.
    """
    wide = {parameter: e for parameter, e in deriver.entries.items() if len(e.indices) == 2}
    if not wide:
        raise LayerError(f"rule {name!r} is about matrices, and {deriver.layer.name!r} has no parameter of two axes")
    steps: list[Step] = []
    before, after = list[Expr](), list[Expr]()
    gradient = _alone(deriver)
    for parameter, entry in wide.items():
        own = normalise(gradient(deriver.gradients[parameter]))
        inert = gradient(PartialDerivative(deriver.output.entry, entry))
        length = sympy.sqrt(normalise(IndexedSum(own**2, *entry.indices)))
        steps += _polar_steps(deriver, name, parameter, own, length)
        slope = PartialDerivative(deriver.output.entry, entry)
        before.append(IndexedSum(slope * inert, *entry.indices) * scale(length))
        after.append(normalise(IndexedSum(deriver.gradients[parameter] * own, *entry.indices)) * scale(length))
    change = -eta * presentable(Add(*after), deriver.layer.scope)
    steps.append(rule_step(deriver, f"{name}-change", says, -eta * Add(*before), change))
    return replace(base, steps=(*kept_steps(base), *steps), assumptions=("one sample in the batch; biases stay",))


def _polar_steps(deriver: Deriver, name: str, parameter: str, own: Expr, length: Expr) -> list[Step]:
    """Return the steps that show the root of ``G'G`` and the orthogonal factor of ``G``."""
    entry = deriver.entries[parameter]
    rows, columns = entry.indices
    other, middle = columns.fresh(), columns.fresh()
    product = IndexedSum(own * rename(own, {columns: other}), rows)
    root = product / length
    squared = IndexedSum(rename(root, {other: middle}) * rename(root, {columns: middle}), middle)
    factor = IndexedSum(
        rename(own / length, {columns: middle}) * rename(root, {columns: middle, other: columns}), middle
    )
    root_of, gradient = tensor(f"R_{parameter}")[columns, other], tensor(f"G_{parameter}")[entry.indices]
    says = "`G` is its orthogonal factor times the root of `G'G`"
    return [
        deriver.step(f"{name}-root-{parameter}", "the root of `G'G`, squared", root_of, product, squared),
        deriver.step(f"{name}-factor-{parameter}", says, gradient, own, factor),
    ]


def _muon(deriver: Deriver, base: Derivation) -> Derivation:
    says = "move every matrix by `eta` against the orthogonal factor of its gradient"
    return _of_rank_one(deriver, base, "muon", lambda length: 1 / length, says)


def _spectral_clipping(deriver: Deriver, base: Derivation) -> Derivation:
    says = "cap the singular values of every gradient at `c_max`"
    return _of_rank_one(deriver, base, "spectral-clipping", lambda length: sympy.Min(1, limit / length), says)


def _sven(deriver: Deriver, base: Derivation) -> Derivation:
    """``J D = -eta l`` of least norm: ``D = -eta J' h`` where ``J J' h = l``, J the derivatives of the losses ``l``."""
    pulled = deriver.cotangent * tensor("h_loss")[deriver.samples]
    kernel = deriver.unfactored_kernel

    def moved(_: str, entry: Indexed) -> Expr:
        here = rename(pulled * PartialDerivative(deriver.output.entry, entry), deriver.primes)
        return -eta * IndexedSum(here, *deriver.primes.values())

    change = -eta * normalise(IndexedSum(kernel * rename(pulled, deriver.primes), *deriver.primes.values()))
    says = "the smallest step that moves the losses as required is `-eta` times their derivatives weighted by `h_loss`"
    step = rule_step(deriver, "sven-change", says, moved_by(deriver, moved), change)
    others = [deriver.primes[i] for i in deriver.units]
    slopes = deriver.cotangent * kernel * rename(deriver.cotangent, deriver.primes)
    matrix = normalise(IndexedSum(slopes, *deriver.units, *others))
    weight = rename(tensor("h_loss")[deriver.samples], deriver.primes)
    solved = -eta * IndexedSum(matrix * weight, *(deriver.primes[i] for i in deriver.samples))
    says = "each loss moves by `-eta` times `J J'` applied to `h_loss`, which must be the loss itself"
    losses = IndexedSum(deriver.cotangent * change, *deriver.units)
    aligned = deriver.step("sven-losses", says, tensor("dl")[deriver.samples], losses, solved)
    assumed = ("g holds the slope of each sample's loss", "`J J'` is invertible")
    return replace(base, steps=(*kept_steps(base), step, aligned), assumptions=assumed)


def _safe_radius(deriver: Deriver, base: Derivation) -> Derivation:
    """``eta <= pi/(max_k a - min_k a)`` with ``a = -K g``, the derivative of the logits along the step."""
    if len(deriver.units) != 1:
        raise LayerError(f"rule 'safe-radius' needs logits along one axis; {deriver.layer.name!r} has other units")
    unit = deriver.units[0]
    along = moved_by(deriver, lambda _, entry: -_gradient(deriver, entry))
    derived = -normalise(weighted(deriver, deriver.unfactored_kernel))
    target = tensor("a")[deriver.output.indices]
    slope = deriver.step("safe-radius-slope", "the slope of the logits along the plain step", target, along, derived)

    def radius(logits: Expr) -> Expr:
        """Return the learning rate up to which the loss has a Taylor series."""
        fresh = unit.fresh()
        here = rename(logits, {unit: fresh})
        return sympy.pi / (Largest(here, fresh) + Largest(-here, fresh))

    says = "the loss of a sample has a Taylor series along the step at least up to this rate"
    target = tensor("rho")[deriver.samples]
    bound = deriver.step("safe-radius", says, target, radius(along), normalise(radius(derived)))
    assumed = ("the outputs are the logits of a cross-entropy",)
    return replace(base, steps=(*kept_steps(base), slope, bound), assumptions=assumed)


OPTIMISERS: dict[str, Rule] = {
    "normalised-gd": _normalised,
    "clipped-gd": _clipped,
    "adam": _adam,
    "sgdp": _sgdp,
    "adamp": _adamp,
    "muon": _muon,
    "spectral-clipping": _spectral_clipping,
    "sven": _sven,
    "safe-radius": _safe_radius,
}
