"""Checks of steps inside whole attention modules, including QK-norm's residual, pass, and detect a wrong one."""

from dataclasses import replace

import pytest
import torch

from verify.checks import identities, properties, twins
from verify.checks.attention_modules import whole_subjects
from verify.checks.cases import Laid
from verify.checks.record import Setting, Status
from verify.checks.runner import run_task

SETTING = Setting(seed=3)


def subject_named(name, variant=""):
    (twin,) = twins.subjects("qk-norm>attention")
    return next(s for s in (twin, *whole_subjects()) if (s.name, s.variant) == (name, variant))


def check(family, subject, ending):
    (task,) = [task for task in family.tasks(subject) if task.id.split("/")[-1 - bool(subject.variant)] == ending]
    return run_task(task, SETTING)


@pytest.mark.parametrize("variant", ["module", "qk-norm", "value-path"])
def test_every_setting_has_identities_and_properties(variant):
    families = {
        task.id.split("/")[0]
        for subject in whole_subjects()
        for family in (identities, properties)
        for task in family.tasks(subject)
        if task.id.endswith(f"inside-{variant}")
    }
    assert families == {"identity", "property"}


@pytest.mark.parametrize("name", ["qk-norm>attention", "affine-like>qk-norm>attention"])
def test_what_qk_norm_leaves_is_shown_and_is_what_a_real_step_does(name):
    found = check(identities, subject_named(name), "residual")
    assert found.status is Status.PASS and "the factor does not cancel, it ranges from" in found.reason
    assert found.equation == f"{name}/self-factor"


@pytest.mark.parametrize("name", ["qk-norm>attention", "affine-like>qk-norm>attention"])
@pytest.mark.parametrize(
    "wrong",
    {
        "a little too much": lambda factor: factor * (1 + 1e-4),
        "cancelled": torch.ones_like,
        "its mean": lambda factor: factor.mean() * torch.ones_like(factor),
    }.values(),
    ids=["a little too much", "cancelled", "its mean"],
)
def test_a_wrong_residual_is_refused(name, wrong):
    subject = subject_named(name)
    written = subject.residual
    assert check(identities, replace(subject, residual=lambda case: wrong(written(case))), "residual").status is (
        Status.FAIL
    )


@pytest.mark.parametrize("variant", ["module", "qk-norm", "value-path"])
def test_a_module_that_sees_the_order_of_its_tokens_is_refused(variant):
    subject = subject_named("attention-output/affine-like", f"inside-{variant}")

    def draw(random, kappa):
        case = subject.draw(random, kappa)

        def sees_order(self, given):
            tokens = torch.arange(given[2].shape[1], dtype=given[2].dtype)
            return (*given[:2], given[2] * (1 + tokens[:, None]))

        case.module.inner.register_forward_pre_hook(sees_order)
        return case

    assert check(properties, subject, "tokens").status is Status.PASS
    assert check(properties, replace(subject, draw=draw), "tokens").status is Status.FAIL


def test_an_output_that_is_not_corrected_is_refused_inside_the_module():
    subject = subject_named("attention-output/affine-like", "inside-module")

    def draw(random, kappa):
        case = subject.draw(random, kappa)
        whole = case.module.call
        return replace(case, module=Laid(case.module.inner, lambda inner, x, y: 1.1 * whole(inner, x, y)))

    for equation in ("activation-change", "self-factor", "cross-terms"):
        assert check(identities, replace(subject, draw=draw), equation).status is Status.FAIL
