"""The generated layers against references written by hand from the geometry, not from the derivation.

affine-like is the unit vector of the homogeneous input [x; 1] under the weight [W, b]; norm-like is the unit vector of
x under W, then the bias. Both are composed of torch's own operations and differentiated by torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from verify.checks.compare import largest, relative_error
from verify.checks.record import Outcome, Setting, Task
from verify.checks.subjects import Case, Subject, cases

BOUND = 1e-12
_SHAPES = 12
_LEAST = 2  # the direction of a single input never turns: its dx is 0, and no relative error exists
Reference = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]


def affine_like(x: Tensor, weight: Tensor, bias: Tensor | None, kappa: float) -> Tensor:
    """Return the reference of the affine-like map: (B, n) -> (B, m)."""
    assert bias is not None
    homogeneous = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    return math.sqrt(kappa) * normalize(homogeneous, dim=1) @ torch.cat([weight, bias[:, None]], dim=1).T


def norm_like(x: Tensor, weight: Tensor, bias: Tensor | None, kappa: float) -> Tensor:
    """Return the reference of the norm-like map: (B, n) -> (B, m)."""
    left_for_weights = kappa if bias is None else kappa - 1
    z = math.sqrt(left_for_weights) * normalize(x, dim=1) @ weight.T
    return z if bias is None else z + bias


REFERENCES: dict[str, Reference] = {"affine-like": affine_like, "norm-like": norm_like}


def tasks(subject: Subject) -> list[Task]:
    """Return one task for the forward map and one for each gradient of a generated layer."""
    if not subject.generated:
        return []
    return [_task(subject, "forward"), *(_task(subject, f"backward-d{name}") for name in ("x", *subject.parameters))]


def _task(subject: Subject, what: str) -> Task:
    identity = f"reference/{subject.name}/{what}"

    def run(setting: Setting) -> Outcome:
        drawn = cases(subject, setting, identity, count=_SHAPES, least=_LEAST)
        worst = largest(_error(subject, case, what) for case in drawn)
        reason = f"largest relative difference from the hand-written reference, {len(drawn)} random shapes"
        return Outcome(reason, measured=worst, bound=BOUND)

    return Task(identity, subject.layer, subject.backend, "float64", f"{subject.name}/{what}", run)


def _error(subject: Subject, case: Case, what: str) -> float:
    reference = REFERENCES[subject.map_name]

    def written_by_hand(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return reference(x, parameters["W"], parameters.get("b"), case.kappa)

    expected = _results(case, written_by_hand, subject, recorded=False)[what]
    ours = [_results(case, lambda x, _: case.module(x), subject, recorded=recorded)[what] for recorded in (False, True)]
    return largest(relative_error(value.cpu().numpy(), expected.cpu().numpy()) for value in ours)


def _results(
    case: Case, forward: Callable[[Tensor, dict[str, Tensor]], Tensor], subject: Subject, *, recorded: bool
) -> dict[str, Tensor]:
    """Return the output and every gradient of ``sum(g * z)``, by the name of the equation that states it.

    ``recorded`` asks for gradients that can be differentiated again, which a layer may compute in another way.
    """
    x = case.x.clone().requires_grad_()
    parameters = subject.parameters_of(case.module)
    z = forward(x, parameters)
    gradients = torch.autograd.grad(z, (x, *parameters.values()), case.g, create_graph=recorded)
    named = zip(("x", *parameters), gradients, strict=True)
    return {"forward": z.detach()} | {f"backward-d{name}": gradient.detach() for name, gradient in named}
