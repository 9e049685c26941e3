"""Which trials train together: those that differ in their seed alone, where that was measured to be faster.

A team is fixed by its experiment, never by which worker was free, and its name is part of its trials' identities: a
result can depend, in its last bits, on the number of networks that were trained as one. First weights, order and split
of a trial follow from its seed, so that its numbers are those of the trial alone up to rounding.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

from verify.training.config import TrialConfig
from verify.training.dataset import Dataset
from verify.training.identity import trial_id
from verify.training.stacked_update import RULES
from verify.training.trial import steps_of

MODES = ("auto", "together", "apart")
MOST_MEMBERS = {"cpu": 16, "cuda": 64}  # more gain little, and a team is what one worker takes at a time
_MODELS = ("mlp",)
_MEASURED = Path(__file__).with_name("seed_stacking.json")


@dataclass(frozen=True)
class Team:
    """Trials that go through the store as one, by seed; ``id`` is the trial's own where there is but one.

    ``identities`` are the trials' ids if each trained alone.
    """

    id: str
    trials: tuple[tuple[str, TrialConfig], ...]
    identities: tuple[str, ...]


def team_of(configs: Sequence[TrialConfig], data_digest: str) -> Team:
    """Return the team of settings that are equal but for the seed."""
    members = sorted(configs, key=lambda config: config.seed)
    identities = tuple(trial_id(config, data_digest) for config in members)
    if len(members) == 1:
        return Team(identities[0], ((identities[0], members[0]),), identities)
    name = _digest("together", *identities)
    return Team(name, tuple((_digest(i, name), c) for i, c in zip(identities, members, strict=True)), identities)


def teams(trials: Mapping[TrialConfig, Dataset], mode: str) -> list[tuple[TrialConfig, ...]]:
    """Return the trials, given with what they train on, in teams.

    ``mode`` is one of ``MODES``: together where it pays, wherever it can be, or all apart.
    """
    alike: dict[TrialConfig, list[TrialConfig]] = defaultdict(list)
    for config in trials:
        alike[replace(config, seed=0)].append(config)
    found: list[tuple[TrialConfig, ...]] = []
    for shape, members in alike.items():
        members.sort(key=lambda config: config.seed)
        can = mode != "apart" and shape.model in _MODELS and shape.update in RULES
        step = MOST_MEMBERS[shape.device] if can else 1
        for chunk in (tuple(members[k : k + step]) for k in range(0, len(members), step)):
            whole = len(chunk) > 1 and (mode == "together" or pays(shape, trials[chunk[0]], len(chunk)))
            found += [chunk] if whole else [(one,) for one in chunk]
    return found


def pays(config: TrialConfig, data: Dataset, members: int) -> bool:
    """Return whether so many trials of these settings were measured to be faster together."""
    limits = measured()
    return (
        products(config, data.features, data.classes) <= limits["most_products"]
        and members * steps_of(config, len(data.train)) >= limits["least_steps"]
    )


def products(config: TrialConfig, features: int, classes: int) -> int:
    """Return the multiplications of one forward pass of a batch through the weights of an MLP."""
    sizes = (features, *[config.width] * config.depth, classes)
    return config.batch_size * sum(n * m for n, m in pairwise(sizes))


@cache
def measured() -> dict[str, int]:
    """Return up to how many products, and from how many steps of all members, a team was measured to be faster."""
    limits: dict[str, int] = json.loads(_MEASURED.read_text(encoding="utf-8"))["limits"]
    return limits


def _digest(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()
