"""A single trial costs no more than a straightforward loop."""

import time

import pytest
import torch
from torch.nn.functional import cross_entropy

from verify.threads import one_thread
from verify.training.config import TrialConfig
from verify.training.data import digits
from verify.training.models import build_for
from verify.training.trial import run_trial

OPTIMISERS = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9),
    "adam": torch.optim.Adam,
}


def plain(config, data):
    """The same network and steps, written as in a tutorial, with a check of each loss."""
    model = build_for(config, data)
    optimiser = OPTIMISERS[config.update](model.parameters(), lr=config.learning_rate)
    x, y, size = data.train.x, data.train.y, config.batch_size
    for _ in range(config.epochs):
        order = torch.randperm(len(y))
        for start in range(0, len(y) - size + 1, size):
            rows = order[start : start + size]
            optimiser.zero_grad()
            loss = cross_entropy(model(x[rows]), y[rows])
            assert loss.item() >= 0
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        return float((model(data.test.x).argmax(dim=1) == data.test.y).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("update", OPTIMISERS)
@pytest.mark.parametrize("method", ["none", "affine-like"])
def test_a_trial_costs_no_more_than_a_plain_loop(method, update):
    config, data = TrialConfig(method, 0.01, update=update, epochs=6, evaluate_every=0), digits(0)
    seconds = {plain: [], run_trial: []}
    with one_thread():
        for round_ in range(12):
            for side in (plain, run_trial) if round_ % 2 else (run_trial, plain):
                began = time.process_time()
                side(config, data)
                seconds[side].append(time.process_time() - began)
    assert min(seconds[run_trial]) <= min(seconds[plain])
