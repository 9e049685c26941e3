"""A trial's settings: validated, and the only source of its randomness."""

from dataclasses import replace

import pytest
import torch

from derive.errors import UsageError
from verify.training.config import TrialConfig, generator
from verify.training.identity import trial_id

CONFIG = TrialConfig(method="none", learning_rate=0.1)


def test_digest_names_the_settings():
    assert CONFIG.digest == TrialConfig(method="none", learning_rate=0.1).digest
    changes = [{"seed": 1}, {"width": 8}, {"learning_rate": 0.2}, {"method": "layer-norm"}, {"probe_every": 5}]
    digests = {replace(CONFIG, **change).digest for change in changes}
    assert len(digests | {CONFIG.digest}) == len(changes) + 1


def test_a_setting_of_another_model_decides_nothing():
    assert CONFIG.digest == replace(CONFIG, context=7).digest
    text = replace(CONFIG, model="transformer")
    assert text.digest != replace(text, context=7).digest
    assert trial_id(CONFIG, "") == trial_id(replace(CONFIG, context=7), "")


def test_later_settings_leave_earlier_trials_their_identity():
    cnn = replace(CONFIG, model="cnn")
    assert not {"kernel", "groups", "halving"} & set(cnn.told())
    changed = [replace(cnn, **change) for change in ({"kernel": 5}, {"groups": 2}, {"halving": "pool"})]
    assert len({cnn.digest, *(c.digest for c in changed)}) == 4


def test_generator_depends_on_its_whole_key():
    draws = [torch.rand(1, generator=generator(*key)).item() for key in (("a", 1), ("a", 1), ("a", 2), ("b", 1))]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "l2"}, "method = 'l2' is not known; choose one of none, batch-norm"),
        ({"activation": "gelu"}, "activation = 'gelu' is not known"),
        ({"dtype": "float16"}, "dtype = 'float16' is not known"),
        ({"model": "rnn"}, "model = 'rnn' is not known"),
        ({"init": "zeros"}, "init = 'zeros' is not known; choose one of variance-preserving, orthogonal, torch"),
        ({"train_samples": -1}, "train_samples = -1 is not valid"),
        ({"model": "cnn", "method": "l2"}, "method = 'l2' is not known; choose one of none, batch-norm"),
        ({"width": 0}, "width = 0 is not valid; give a whole number of at least 1"),
        ({"depth": True}, "depth = True is not valid"),
        ({"seed": -1}, "seed = -1 is not valid; give a whole number of at least 0"),
        ({"epochs": 1.5}, "epochs = 1.5 is not valid"),
        ({"model": "cnn", "kernel": 2}, "kernel = 2 is not odd; give an odd number"),
        ({"model": "cnn", "groups": 3}, "groups = 3 do not divide width = 64; give a divisor"),
        ({"model": "cnn", "groups": 2, "update": "nlms"}, "nlms and foof do not support grouped layers"),
        ({"model": "cnn", "groups": 2, "probe_every": 3}, "nlms and foof do not support grouped layers"),
        ({"halving": "pool"}, "halving = 'pool' needs convolutions; write model = 'cnn'"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0 is not a valid rate"),
        ({"learning_rate": float("nan")}, "learning_rate = nan is not a valid rate"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(UsageError) as caught:
        replace(CONFIG, **change)
    assert message in str(caught.value)
