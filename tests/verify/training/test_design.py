"""Fractional designs: balanced by counting, and run as the file prescribes."""

from collections import Counter
from itertools import combinations

import pytest

from derive.errors import UsageError
from verify.training.design import fraction
from verify.training.experiment import load_experiment

LINES = """
methods = ["none", "affine-like"]
learning_rates = [0.1, 0.3]
updates = ["sgd", "momentum", "adam", "adamw"]
seeds = [0, 1, 2]
widths = [8, 16]
depths = [1, 2]
activation = ["tanh", "relu"]
[design]
kind = "fraction"
cells = 8
"""


@pytest.fixture
def load(tmp_path):
    def write(text):
        (tmp_path / "mine.toml").write_text(text)
        return load_experiment(tmp_path / "mine.toml")

    return write


@pytest.mark.parametrize(
    ("levels", "cells"), [((2, 2, 2), 4), ((3, 3, 3, 3), 9), ((4, 2, 2, 2), 8), ((3, 3), 3), ((4, 2, 2), 16)]
)
def test_where_an_orthogonal_array_exists_every_pair_of_values_occurs_equally_often(levels, cells):
    found = fraction(levels, cells)
    assert len(set(found)) == cells
    for first, second in combinations(range(len(levels)), 2):
        pairs = Counter((cell[first], cell[second]) for cell in found)
        expected = cells / (levels[first] * levels[second])
        assert set(pairs.values()) == ({expected} if expected >= 1 else {1})


@pytest.mark.parametrize("cells", [8, 12, 24, 48])
def test_where_none_exists_every_value_occurs_equally_often_up_to_one(cells):
    levels = (4, 2, 2, 3, 4)
    found = fraction(levels, cells)
    for factor, count in enumerate(levels):
        values = Counter(cell[factor] for cell in found)
        assert len(values) == count and max(values.values()) - min(values.values()) <= 1


def test_a_part_is_always_the_same_one():
    """Trials that are named by a file must be the same ones on every machine."""
    assert fraction((2, 2, 2), 4) == [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)]


def test_methods_rates_and_seeds_are_crossed_with_every_cell(load):
    trials = load(LINES).trials
    assert len(trials) == len(set(trials)) == 8 * 2 * 2 * 3
    cells = Counter((t.update, t.width, t.depth, t.activation) for t in trials)
    assert len(cells) == 8 and set(cells.values()) == {2 * 2 * 3}
    assert Counter(update for update, *_ in cells) == dict.fromkeys(("sgd", "momentum", "adam", "adamw"), 2)


def test_factors_that_are_not_named_are_crossed(load):
    trials = load(LINES + 'factors = ["updates", "widths", "depths"]\n').trials
    cells = Counter((t.update, t.width, t.depth) for t in trials)
    assert len(cells) == 8 and set(cells.values()) == {2 * 2 * 2 * 3}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('design = "fraction"', "design: 'fraction' is not a table"),
        ("[design]\ncells = 2", r"design: the kind None is not known; write \[design\]"),
        ('[design]\nkind = "fraction"\nsize = 2', "design: 'size' is not known; the keys are kind, cells, factors"),
        (
            '[design]\nkind = "fraction"\ncells = 9',
            "cells = 9 is not a valid number of cells; give a whole number from 1 to 4",
        ),
        ('[design]\nkind = "fraction"\ncells = true', "cells = True is not a valid number of cells"),
        ('[design]\nkind = "fraction"\ncells = 1\nfactors = ["seeds"]', "such lists are widths, depths"),
    ],
)
def test_what_is_no_design_is_refused(load, lines, message):
    base = 'methods = ["none"]\nlearning_rates = [0.1]\nwidths = [8, 16]\ndepths = [1, 2]\nseeds = [0, 1]\n'
    with pytest.raises(UsageError, match=message):
        load(base + lines)


def test_so_many_combinations_are_refused_before_they_are_made(load):
    many = f"widths = {list(range(1, 60))}\ndepths = {list(range(1, 60))}\n"
    with pytest.raises(UsageError, match="3481 combinations, more than 1000"):
        load('methods = ["none"]\nlearning_rates = [0.1]\n' + many + '[design]\nkind = "fraction"\ncells = 2')
