"""The verdict on twenty failures over five seeds each, and on four healthy trainings."""

import pytest
import torch

import verify
from tests.verify.diagnosis.failing_models import FAILURES, HEALTHY
from verify.diagnosis.findings.finding import MILD

SEEDS = range(5)


def diagnosed(make, seed):
    torch.manual_seed(seed)
    case = make()
    return case, verify.diagnose(case.model, case.batch, case.loss, **case.settings)


@pytest.mark.parametrize("make", FAILURES, ids=lambda make: make.__name__)
def test_the_first_finding_names_the_cause(make):
    wrong = {}
    for seed in SEEDS:
        case, found = diagnosed(make, seed)
        first = found.findings[0] if found.findings else None
        right = first is not None and first.kind == case.kind
        right = right and (case.layer is None or first.layer == case.layer)
        if not (right and (case.index is None or first.index == case.index)):
            wrong[seed] = [(f.kind, f.layer, f.index) for f in found.findings[:3]]
    assert not wrong


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", HEALTHY, ids=lambda make: make.__name__)
def test_a_training_in_good_order_shows_what_every_network_shows(make, seed):
    _, found = diagnosed(make, seed)
    assert {f.kind for f in found.findings} <= set(MILD)
