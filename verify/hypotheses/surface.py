"""H9: affine-like against every other method at one rate for all, as part of a response surface.

    lead_at_rate         the difference at equal learning rates eta
    lead_at_step         the difference at equal effective rates: equal steps in activation space

The effective rate is ``eta kappa`` for plain descent and momentum, whose steps are proportional to the gradient. Adam
moves each parameter by about eta, whatever the gradient's size; an activation then moves in proportion to the norm of
its gradient with respect to the parameters, sqrt(kappa), so the effective rate is ``eta sqrt(kappa)``. kappa is that of
a layer of the network's width. A lead that vanishes at equal effective rates was an effect of the rate.

At a common rate nothing is tuned, so every seed judges. Only tables with affine-like at both kappas, 1 and n + 1, are
judged, at each rate that all methods share, because at a common rate kappa determines the length of a step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from verify.hypotheses.chosen import ACCURACY, Chosen, compare, methods_of, of, pair
from verify.hypotheses.finding import MARGIN, Finding, open_finding
from verify.statistics import Effect, Region, paired_difference
from verify.training.config import WIDE_KAPPA
from verify.training.stacked_update import RULES

OURS = ("affine-like", WIDE_KAPPA)
STATEMENT = "At the rate {:g} of {} for all methods, {} layers reach at least the test accuracy of {}."
CRITERION = (
    "Paired difference of test accuracy at one rate for both, mean over the networks, one number a seed, all seeds: "
    f"its 95 % interval above -{MARGIN:g}. Contradicted where the interval lies below -{MARGIN:g}."
)
ABSENT = "no trials have affine-like at both kappas and a rate that all methods share"
_SAME = 1e-6  # relative difference up to which two effective rates count as equal
Place = tuple[float, Effect]
Lead = Callable[[Sequence[tuple[Chosen, Chosen]], float], Effect | None]


@dataclass(frozen=True)
class Surface:
    """The lead of one method over another, in networks of one size, under one update rule.

    ``by_rate`` and ``by_step`` hold ascending learning rates or effective rates, each with the lead there.
    """

    update: str
    width: int
    depth: int
    ours: str
    rival: str
    by_rate: tuple[Place, ...]
    by_step: tuple[Place, ...]


def judge(chosen: Sequence[Chosen]) -> list[Finding]:
    """Return a finding for every update rule, rate, affine-like method and rival, if affine-like has both kappas."""
    found = []
    for rule in RULES:
        own = _without_angles(of(chosen, model="mlp", update=rule))
        if set(OURS) <= set(methods_of(own)):
            rates = sorted(set.intersection(*(set(one.grid) for one in own)))
            found += [_at(own, rate, ours, rival) for rate in rates for ours in OURS for rival in _rivals(own)]
    return found or [open_finding("H9", STATEMENT.format(0.001, "adam", OURS[0], "others"), CRITERION, ABSENT)]


def _at(chosen: Sequence[Chosen], rate: float, ours: str, rival: str) -> Finding:
    every = [replace(one, tuning=frozenset()).at(rate) for one in chosen]
    pairs = pair(of(every, method=ours), of(every, method=rival), "method")
    rule = chosen[0].settings["update"]
    head = ("H9", STATEMENT.format(rate, rule, ours, rival), CRITERION)
    found = compare(head, pairs, Region(low=-MARGIN), tuned=False)
    return replace(found, place=f"{rule}, rate {rate:g}, {ours}", against=rival)


def surfaces(chosen: Sequence[Chosen]) -> list[Surface]:
    """Return the leads of affine-like over each rival at all rates that can be compared."""
    found = []
    sizes: dict[tuple[str, int, int], list[Chosen]] = defaultdict(list)
    for one in _without_angles(of(chosen, model="mlp")):
        if one.settings["update"] in RULES:
            sizes[one.settings["update"], one.settings["width"], one.settings["depth"]].append(one)
    for (rule, width, depth), own in sizes.items():
        for ours in (method for method in OURS if of(own, method=method)):
            for rival in _rivals(own):
                cells = pair(of(own, method=ours), of(own, method=rival), "method").cells
                by_rate = _places(cells, lead_at_rate, 1.0)
                known = bool(cells) and all(one.trials[0]["kappa"] is not None for cell in cells for one in cell)
                by_step = _places(cells, lead_at_step, scale(cells[0][0])) if known else ()
                if max(len(by_rate), len(by_step)) > 1:
                    found.append(Surface(rule, width, depth, ours, rival, by_rate, by_step))
    return found


def scale(one: Chosen) -> float:
    """Return the effective rate of a setting for a learning rate of 1."""
    kappa = float(one.trials[0]["kappa"])
    return math.sqrt(kappa) if one.settings["update"].startswith("adam") else kappa


def lead_at_rate(cells: Sequence[tuple[Chosen, Chosen]], rate: float) -> Effect | None:
    """Return first minus second at a rate, mean over the cells; None if one of them lacks that rate."""
    return _lead([(_at_rate(ours, rate), _at_rate(theirs, rate)) for ours, theirs in cells])


def lead_at_step(cells: Sequence[tuple[Chosen, Chosen]], rate: float) -> Effect | None:
    """Return first at a rate minus second at the same effective rate; None if that lies outside its grid.

    Between two rates of its grid, the second's accuracy is interpolated for each seed, linearly in the log of the rate.
    """
    return _lead(
        [(_at_rate(ours, rate), _interpolated(theirs, rate * scale(ours) / scale(theirs))) for ours, theirs in cells]
    )


def _lead(cells: Sequence[tuple[dict[int, float], dict[int, float]]]) -> Effect | None:
    """Return the mean difference over seeds, each a mean over cells; None if a cell has fewer than two common seeds."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for ours, theirs in cells:
        for seed in ours.keys() & theirs.keys():
            by_seed[seed].append(ours[seed] - theirs[seed])
    means = [fmean(found) for _, found in sorted(by_seed.items()) if len(found) == len(cells)]
    return paired_difference(means, [0.0] * len(means)) if len(means) > 1 else None


def _places(cells: Sequence[tuple[Chosen, Chosen]], lead: Lead, factor: float) -> tuple[Place, ...]:
    rates = sorted({rate for ours, _ in cells for rate in ours.grid})
    leads = [(rate * factor, lead(cells, rate)) for rate in rates]
    return tuple((place, effect) for place, effect in leads if effect is not None)


def _at_rate(one: Chosen, rate: float) -> dict[int, float]:
    """Return the test accuracy of every seed at a rate."""
    return {t["seed"]: t[ACCURACY] for t in one.trials if t["learning_rate"] == rate}


def _interpolated(one: Chosen, rate: float) -> dict[int, float]:
    """Return the test accuracy of every seed at a rate inside the grid; none outside."""
    grid = one.grid
    if not grid[0] * (1 - _SAME) <= rate <= grid[-1] * (1 + _SAME):
        return {}
    known = [_at_rate(one, at) for at in grid]
    seeds = set.intersection(*map(set, known))
    places = np.log(grid)
    return {seed: float(np.interp(math.log(rate), places, [own[seed] for own in known])) for seed in seeds}


def _without_angles(chosen: Sequence[Chosen]) -> list[Chosen]:
    return [one for one in chosen if one.settings["angle"] is None]


def _rivals(chosen: Sequence[Chosen]) -> list[str]:
    return [method for method in methods_of(chosen) if method not in OURS]
