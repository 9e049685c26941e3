"""Trials with a known truth: lines of a table with a given test accuracy and a best rate in the middle."""

import itertools

import numpy as np

from verify.training.config import TrialConfig
from verify.training.export import line
from verify.training.store import Row

RATES = (0.01, 0.1, 1.0)
SEEDS = range(6)  # the first tunes the rates
JUDGING = len(SEEDS) - 1
BEST = RATES[1]


def row(rate=BEST, seed=0, accuracy=0.8, best=BEST, loss=0.3, ratio=None, errors=None, **settings):
    """A finished trial; validation favours the best rate."""
    config = TrialConfig(**{"method": "none", "learning_rate": rate, "seed": seed, **settings})
    validation = float(0.9 - 0.1 * abs(np.log10(rate / best)))
    point = {"step": 1, "train_loss": 0.1, "validation_loss": 0.2, "validation_accuracy": validation}
    spreads = [] if ratio is None else [{"minimum": 1.0, "maximum": ratio, "coefficient_of_variation": 0.1}]
    own = [] if errors is None else [dict(zip(("error_float64", "error", "bound"), errors, strict=True))]
    own = [{"self_share": 0.5, **one} for one in own]
    result = {"points": [point], "spreads": spreads, "diverged_at": None, "test_loss": loss, "test_accuracy": accuracy}
    result["own_steps"] = own
    return Row(config.digest, config, "done", 1, 1, 0, None, result)


def trial(**asked):
    """A line of the table of one finished trial."""
    return line(row(**asked))


def trials(accuracy, rates=RATES, seeds=SEEDS, loss=lambda **_: 0.3, best=lambda **_: BEST, **lists):
    """Return the product of lists of settings, at every rate and seed; ``accuracy`` takes setting, rate and seed.

    A little noise that differs between rates and methods is added, and an offset common to each seed.
    """
    noise = np.random.default_rng(1)
    found = []
    for values in itertools.product(*lists.values()):
        settings = dict(zip(lists, values, strict=True))
        for seed, rate in itertools.product(seeds, rates):
            told = {**settings, "rate": rate, "seed": seed}
            shift = float(0.003 * seed + noise.normal(0, 0.0005))
            common = {"accuracy": accuracy(**told) + shift, "loss": loss(**told) + shift, "best": best(**settings)}
            found.append(trial(rate=rate, seed=seed, **settings, **common))
    return found


def as_model(model, rows):
    """The same trials as if another kind of network had been trained."""
    return [{**one, "model": model} for one in rows]
