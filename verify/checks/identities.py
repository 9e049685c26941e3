"""One real step of SGD on a real module against the derived change of its activation.

    take g, step:    theta' = theta - eta dL/dtheta  by torch.optim.SGD, L = sum(g z), the input held fixed
    measured:        F(theta'; x) - F(theta; x)
    derived:         -eta sum over s', i' of K[s, i; s', i'] g[s', i'],  K the derivation's kernel, evaluated on arrays

The maps here are linear in their parameters, so both sides agree at any eta up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from derive.algebra.index import Index
from verify.checks.compare import largest, relative_error
from verify.checks.evaluate import Array, evaluate
from verify.checks.record import Outcome, Setting, Task
from verify.checks.subjects import Case, Subject, cases

BOUND = 1e-12
_INSTANCES = 24


def tasks(subject: Subject) -> list[Task]:
    """Return the tasks of one subject: a batch's step, a lone sample's step, and one sample's pull on the others."""
    errors: dict[str, Callable[[Subject, Case], float]] = {
        "activation-change": batch_error,
        "self-factor": lone_sample_error,
        "cross-terms": pull_error,
    }
    return [_task(subject, equation, error) for equation, error in errors.items()]


def _task(subject: Subject, equation: str, error: Callable[[Subject, Case], float]) -> Task:
    identity = f"identity/{subject.name}/{equation}"

    def run(setting: Setting) -> Outcome:
        drawn = cases(subject, setting, identity, count=_INSTANCES)
        worst = largest(error(subject, case) for case in drawn)
        reason = f"largest relative error of a real SGD step, {len(drawn)} random shapes and rates from 0.1 to 1e6"
        return Outcome(reason, measured=worst, bound=BOUND)

    return Task(identity, subject.layer, subject.backend, "float64", f"{subject.name}/{equation}", run)


def batch_error(subject: Subject, case: Case) -> float:
    """Return the error of the whole batch's change against ``-eta sum K g``, relative to ``eta sum |K| |g|``.

    The samples' contributions may cancel to nothing; what they add up from is then the only scale there is.
    """
    derivation = subject.derivation
    axes = derivation.layer.output.indices
    kernel = evaluate(derivation.kernel, (*axes, *_primed(axes)), case.point(subject))
    g = case.g.cpu().numpy()
    expected = -case.eta * np.tensordot(kernel, g, axes=len(axes))
    scale = case.eta * np.tensordot(np.abs(kernel), np.abs(g), axes=len(axes)).max()
    return relative_error(sgd_change(case), expected, scale=float(scale))


def lone_sample_error(subject: Subject, case: Case) -> float:
    """Return the relative error of a one-sample batch's change against ``-eta K_ss g``."""
    alone = replace(case, x=case.x[:1], g=case.g[:1])
    samples = subject.derivation.samples
    factor = evaluate(subject.self_factor, samples, alone.point(subject))
    expected = -case.eta * factor[..., None] * alone.g.cpu().numpy()
    return relative_error(sgd_change(alone), expected)


def pull_error(subject: Subject, case: Case) -> float:
    """Return how far one sample's gradient moves the *others* off ``-eta K_ss' g_s'``, relative to its largest pull."""
    only_last = torch.zeros_like(case.g)
    only_last[-1] = case.g[-1]
    samples = subject.derivation.samples
    cross = evaluate(subject.derivation.cross_terms, (*samples, *_primed(samples)), case.point(subject))
    expected = -case.eta * cross[:, -1, None] * case.g[-1].cpu().numpy()
    change = sgd_change(replace(case, g=only_last))
    return relative_error(change[:-1], expected[:-1], scale=float(np.abs(change).max()))


def sgd_change(case: Case) -> Array:
    """Return ``F(theta'; x) - F(theta; x)`` for one step of ``torch.optim.SGD`` on the loss ``sum(g z)``."""
    module = copy.deepcopy(case.module)
    optimiser = torch.optim.SGD(module.parameters(), lr=case.eta)
    before = module(case.x)
    (before * case.g).sum().backward()
    optimiser.step()
    with torch.no_grad():
        return np.asarray((module(case.x) - before).cpu().numpy())


def _primed(indices: tuple[Index, ...]) -> tuple[Index, ...]:
    return tuple(index.primed() for index in indices)
