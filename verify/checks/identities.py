"""One real step of SGD on a real module against the derived change of its activation.

    step:            theta' = theta - eta dL/dtheta  by torch.optim.SGD, L = sum(g z), with fixed g and input
    measured:        F(theta'; x) - F(theta; x)
    derived:         -eta sum over s', i' of K[s, i; s', i'] g[s', i'],  K the derivation's kernel, evaluated on arrays

If the derivation states that the step is exact, both sides agree at any eta up to rounding. Otherwise the remainder
must shrink as eta^2: it is measured at eta and at eta/2, and its order is the base-2 logarithm of the ratio.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sympy import Expr

from derive.algebra.index import Index
from derive.record import Derivation
from verify.checks.cases import Case, Subject, cases
from verify.checks.compare import largest, relative_error
from verify.checks.evaluate import Array, evaluate
from verify.checks.record import Outcome, Setting, Task

BOUND = 1e-12
ORDER_BOUND = 0.1
_INSTANCES, _FEW = 8, 3  # instances; fewer for steps of the whole batch, which cost far more
_FINE = 1e-4  # relative change of the activation at which the remainder is small but far above rounding
_RAISED = (1.0, 8.0, 64.0)
_CLEAR = 1e-10  # a remainder this large, relative to the activation, shows its order
_ROUNDING = 1e-12  # a remainder this small, relative to the activation, may be rounding
Expected = Callable[[Subject, Case], tuple[Case, Array, Array, float]]


def tasks(subject: Subject) -> list[Task]:
    """Return the tasks of one subject: steps of a batch and of a lone sample, its effect on others, stated factors."""
    if "identity" not in subject.families:
        return []
    sides: dict[str, Expected] = {"activation-change": of_batch, "self-factor": of_lone_sample, "cross-terms": of_pull}
    found = [_task(subject, equation, side) for equation, side in sides.items()]
    found += [] if subject.factor is None else [_stated(subject)]
    return found if subject.residual is None else [*found, _residual(subject)]


def _task(subject: Subject, equation: str, side: Expected) -> Task:
    identity = subject.identity("identity", equation)
    count = _FEW if subject.variant and side is of_batch else _INSTANCES

    def run(setting: Setting) -> Outcome:
        """Return the error of the identity for a real step of gradient descent."""
        drawn = cases(subject, setting, identity, count=count, largest=8)
        if subject.source().derivation.exact_in_eta:
            worst = largest(_error(*side(subject, case)) for case in drawn)
            reason = f"largest relative error of a real SGD step, {len(drawn)} random shapes and rates"
            return Outcome(reason, measured=worst, bound=BOUND)
        deficits = [_order_deficit(*side(subject, case)) for case in drawn]
        reason = f"2 minus the observed order in eta of the remainder of a real SGD step, {len(drawn)} random shapes"
        return Outcome(reason, measured=largest(deficits), bound=ORDER_BOUND)

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation(equation), run)


def _error(case: Case, expected: Array, seen: Array, scale: float) -> float:
    """Return the error of the change against ``-eta expected`` at the entries ``seen``; 0 if there are none."""
    change = sgd_change(case)
    if not seen.any():
        return 0.0
    return relative_error(change[seen], -case.eta * expected[seen], scale=case.eta * scale)


def _order_deficit(case: Case, expected: Array, seen: Array, scale: float) -> float:
    """Return 2 minus the order in eta of the remainder beyond the derived change; 0 if it is only rounding.

    If the remainder is small by chance, or if inner values are far larger than the output (as before a closed gate),
    the rate is raised until the remainder is clear of rounding.
    """
    if not seen.any() or scale == 0:
        return 0.0
    size = max(float(case().detach().abs().max()), 1e-3)

    def left(eta: float) -> float:
        remainder = sgd_change(replace(case, eta=eta))[seen] + eta * expected[seen]
        return float(np.abs(remainder).max())

    rates = [_FINE * raised * size / scale for raised in _RAISED]
    eta = next((rate for rate in rates if left(rate) > _CLEAR * size), rates[-1])
    coarse, fine = left(eta), left(eta / 2)
    if not math.isfinite(coarse + fine):
        return math.inf
    if coarse <= _ROUNDING * size:
        return 0.0
    return max(0.0, 2 - math.log2(coarse / fine)) if fine > 0 else 0.0


def of_batch(subject: Subject, case: Case) -> tuple[Case, Array, Array, float]:
    """Return the expected change of the whole batch, ``sum K g``, with the scale ``sum |K| |g|``.

    The contributions of the samples may cancel, so the scale is the sum of their magnitudes.
    """
    source = subject.source()
    axes = source.derivation.layer.output.indices
    kernel = evaluate(source.derivation.kernel, (*axes, *_primed(axes)), case.point(source.mapped))
    g = case.g.cpu().numpy()
    expected = np.tensordot(kernel, g, axes=len(axes))
    scale = np.tensordot(np.abs(kernel), np.abs(g), axes=len(axes)).max()
    return case, expected, np.ones(g.shape, dtype=bool), float(scale)


def of_lone_sample(subject: Subject, case: Case) -> tuple[Case, Array, Array, float]:
    """Return the expected change of one sample's activation by its own gradient: ``K_ss g_s``."""
    derivation = subject.source().derivation
    case, here = _one_sample(derivation, case)
    expected = _apply(derivation, subject.source().self_factor, case, subject, own=True)
    return case, expected, here, float(np.abs(expected[here]).max())


def of_pull(subject: Subject, case: Case) -> tuple[Case, Array, Array, float]:
    """Return the expected change of the *other* samples by one sample's gradient, ``K_ss' g_s'``."""
    derivation = subject.source().derivation
    case, here = _one_sample(derivation, case)
    expected = _apply(derivation, derivation.cross_terms, case, subject, own=False)
    return case, expected, ~here, float(np.abs(expected).max())


def _one_sample(derivation: Derivation, case: Case) -> tuple[Case, Array]:
    """Return the case with a gradient at its last sample only, and the mask of that sample's output entries."""
    axes = derivation.layer.output.indices
    here = np.zeros(case.g.shape, dtype=bool)
    here[tuple(-1 if axis in derivation.samples else slice(None) for axis in axes)] = True
    return replace(case, g=case.g * torch.from_numpy(here).to(case.g)), here


def _apply(derivation: Derivation, matrix: Expr, case: Case, subject: Subject, *, own: bool) -> Array:
    """Return ``sum over i' of M[s, i; s', i'] g[s', i']``, s' the last sample; ``own`` matrices have s' = s.

    A matrix without primed unit indices is diagonal in the units.
    """
    axes, point = derivation.layer.output.indices, case.point(subject.source().mapped)
    primed_units = _primed(derivation.units)
    whole = bool(matrix.free_symbols & set(primed_units))
    others = () if own else _primed(derivation.samples)
    value = evaluate(matrix, (*axes, *others, *(primed_units if whole else ())), point)
    picked: tuple[Any, ...] = (Ellipsis, *(-1 for _ in others), *(slice(None) for _ in primed_units if whole))
    value = value[picked]
    last = tuple(-1 if axis in derivation.samples else slice(None) for axis in axes)
    g = case.g.cpu().numpy()[last]
    if whole:
        return np.tensordot(value, g, axes=len(primed_units))
    shape = tuple(1 if axis in derivation.samples else length for axis, length in zip(axes, value.shape, strict=True))
    return np.asarray(value * g.reshape(shape))


def _stated(subject: Subject) -> Task:
    """The check of the package's ``self_factor`` against the derived one."""
    identity = subject.identity("identity", "stated-self-factor")

    def run(setting: Setting) -> Outcome:
        """Return the largest relative error of the stated factor."""
        assert subject.factor is not None
        drawn = cases(subject, setting, identity, count=_INSTANCES, largest=8)
        worst = largest(_stated_error(subject, case) for case in drawn)
        return Outcome(f"self_factor(module, x) against the derived one, {len(drawn)} shapes", worst, BOUND)

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation("self-factor"), run)


def _residual(subject: Subject) -> Task:
    """The check of a factor that does not cancel: a lone sample's real step against the hand-written self factor."""
    identity = subject.identity("identity", "residual")

    def run(setting: Setting) -> Outcome:
        """Return 2 minus the order of the step's remainder, and the range of the remaining factor."""
        assert subject.residual is not None
        drawn = cases(subject, setting, identity, count=_INSTANCES, largest=8)
        deficits, factors = [], []
        for case in drawn:
            with torch.no_grad():
                factor = subject.residual(case).cpu().numpy()
            lone, here = _one_sample(subject.source().derivation, case)
            expected = factor * lone.g.cpu().numpy()
            deficits.append(_order_deficit(lone, expected, here, float(np.abs(expected[here]).max())))
            factors.append(factor.ravel())
        low, high = (float(pick(np.concatenate(factors))) for pick in (np.min, np.max))
        reason = (
            f"the factor does not cancel, it ranges from {low:.2g} to {high:.2g}; 2 minus the observed order of the "
            f"remainder of a real SGD step beyond the hand-written factor, {len(drawn)} random shapes"
        )
        return Outcome(reason, measured=largest(deficits), bound=ORDER_BOUND)

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation("self-factor"), run)


def _stated_error(subject: Subject, case: Case) -> float:
    assert subject.factor is not None
    source = subject.source()
    derived = evaluate(source.self_factor, source.derivation.layer.output.indices, case.point(source.mapped))
    stated = subject.factor(case).detach().cpu().numpy()
    return relative_error(np.broadcast_to(stated, derived.shape), derived)


def sgd_change(case: Case) -> Array:
    """Return ``F(theta'; x) - F(theta; x)`` for one step of ``torch.optim.SGD`` on the loss ``sum(g z)``."""
    after = replace(case, module=copy.deepcopy(case.module))
    optimiser = torch.optim.SGD(after.module.parameters(), lr=case.eta)
    before = after()
    (before * case.g).sum().backward()
    for name, mask in (case.trained or {}).items():
        gradient = after.module.get_parameter(f"inner.{name}").grad
        if gradient is not None:
            gradient.mul_(mask)
    optimiser.step()
    with torch.no_grad():
        return np.asarray((after() - before).cpu().numpy())


def _primed(indices: tuple[Index, ...]) -> tuple[Index, ...]:
    return tuple(index.primed() for index in indices)
