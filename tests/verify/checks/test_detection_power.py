"""The smallest relative error in a module or in one gradient that each check still detects.

Each check must detect the stated error and pass at a hundredth of it, so that a change of its sensitivity is noticed.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from verify.checks import attentions, convolutions, gradients, identities, properties, twins
from verify.checks.cases import Laid
from verify.checks.record import Setting, Status
from verify.checks.rows import subjects as row_subjects
from verify.checks.runner import run_task


class Scaled(torch.autograd.Function):
    """A tensor whose value, or whose gradient, is too large by a relative error."""

    @staticmethod
    def forward(ctx, x, value, gradient):
        ctx.gradient = gradient
        return x * (1 + value)

    @staticmethod
    def backward(ctx, g):
        return g * (1 + ctx.gradient), None, None


def off(subject, value=0.0, gradient=0.0):
    """The subject with a module whose output is off, or the gradient with respect to its last input."""

    def draw(random, kappa):
        case = subject.draw(random, kappa)
        whole = case.module

        def call(inner: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
            *others, x = inputs
            z = whole.call(inner, *others, Scaled.apply(x, 0.0, gradient))
            return z * (1 + value)

        return replace(case, module=Laid(whole.inner, call))

    return replace(subject, draw=draw)


def subject_of(layer, name, variant=""):
    made = {"affine": row_subjects, "gated": twins.subjects, "attention": attentions.subjects}
    of = made.get(layer, convolutions.subjects)(layer)
    return next(s for s in of if s.name == name and s.variant == variant)


ROWS = ("affine", "affine-like")
IMAGES = ("convolution", "centred-convolution/norm-like", "2d")
CHAIN = ("attention", "attention-output/affine-like", "qk-norm")
# module, family and check; what is perturbed; the smallest detected relative error, as a power of ten
POWER = [
    (ROWS, identities, "activation-change", "value", 1e-11),
    (ROWS, identities, "self-factor", "value", 1e-11),
    (("gated", "gated"), identities, "activation-change", "value", 1e-7),
    (ROWS, gradients, "forward", "value", 1e-14),
    (ROWS, gradients, "forward/float32", "value", 1e-5),
    (ROWS, gradients, "forward/bfloat16", "value", 1e-1),
    (ROWS, gradients, "backward-dx", "gradient", 1e-14),
    (ROWS, gradients, "backward-dx/float32", "gradient", 1e-5),
    (ROWS, gradients, "gradcheck", "gradient", 1e-2),
    (IMAGES, gradients, "forward/2d", "value", 1e-14),
    (IMAGES, gradients, "backward-dx/2d/float32", "gradient", 1e-5),
    (IMAGES, gradients, "forward/2d/bfloat16", "value", 1e-1),
    (CHAIN, gradients, "forward/qk-norm", "value", 1e-14),
    (CHAIN, gradients, "backward-dy/qk-norm", "gradient", 1e-14),
    (CHAIN, gradients, "backward-dy/qk-norm/float32", "gradient", 1e-5),
    (ROWS, properties, "limit-infinity", "value", 1e-11),
]


def status(subject, family, ending):
    (task,) = [task for task in family.tasks(subject) if task.id.endswith(f"/{ending}")]
    return run_task(task, Setting(seed=2)).status


@pytest.mark.parametrize(("where", "family", "ending", "what", "power"), POWER)
def test_an_error_of_this_size_is_caught_and_a_hundredth_of_it_is_within_rounding(where, family, ending, what, power):
    subject = subject_of(*where)
    assert status(off(subject, **{what: power}), family, ending) is Status.FAIL
    assert status(off(subject, **{what: power / 100}), family, ending) is Status.PASS
