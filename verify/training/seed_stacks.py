"""Decide which trials train together: those that differ only in their seed, if that was measured to be faster.

A team depends only on its experiment, never on which worker is free, and its id is part of its trials' identities: the
last bits of a result can depend on the number of networks trained as one. A trial's seed determines its initial
weights, order and split, so its results equal those of the trial alone up to rounding.
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
MOST_MEMBERS = {"cpu": 16, "cuda": 64}  # more members gain little, and one worker takes a whole team
_MODELS = ("mlp",)
_MEASURED = Path(__file__).with_name("seed_stacking.json")


@dataclass(frozen=True)
class Team:
    """Trials, ordered by seed, that the store treats as one; the ``id`` of a single trial is its own.

    ``identities`` are the ids that the trials would have alone.
    """

    id: str
    trials: tuple[tuple[str, TrialConfig], ...]
    identities: tuple[str, ...]


def team_of(configs: Sequence[TrialConfig], data_digest: str) -> Team:
    """Return the team of settings that are equal except for the seed."""
    members = sorted(configs, key=lambda config: config.seed)
    identities = tuple(trial_id(config, data_digest) for config in members)
    if len(members) == 1:
        return Team(identities[0], ((identities[0], members[0]),), identities)
    name = _digest("together", *identities)
    return Team(name, tuple((_digest(i, name), c) for i, c in zip(identities, members, strict=True)), identities)


def teams(trials: Mapping[TrialConfig, Dataset], mode: str) -> list[tuple[TrialConfig, ...]]:
    """Return the trials, given with their data, grouped into teams.

    ``mode`` is one of ``MODES``: together if it is faster, together whenever possible, or all apart.
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
    """Return whether ``members`` trials of these settings were measured to be faster together."""
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
    """Return the measured limits for teams: most products, and fewest steps of all members."""
    limits: dict[str, int] = json.loads(_MEASURED.read_text(encoding="utf-8"))["limits"]
    return limits


def _digest(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()
