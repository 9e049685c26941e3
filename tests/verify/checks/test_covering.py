"""Covering arrays contain every pair, every triple if requested, and satisfy all rules."""

from itertools import combinations, product

import pytest
import torch

from verify.checks.combinations import attention, patches, rows
from verify.checks.combinations.covering import Rule, covering_rows, only
from verify.checks.combinations.tasks import INTERPRETED, combinations_of

FACTORS = {"a": (1, 2, 3, 4), "b": ("x", "y", "z"), "c": (True, False), "d": (None, 0, 1)}


@pytest.mark.parametrize("strength", [1, 2, 3, 4])
def test_every_combination_of_so_many_factors_occurs(strength):
    found = covering_rows(FACTORS, (), strength)
    for names in combinations(FACTORS, strength):
        seen = {tuple(row[name] for name in names) for row in found}
        assert seen == set(product(*(FACTORS[name] for name in names)))
    assert all(set(row) == set(FACTORS) for row in found)


def test_pairs_take_few_rows():
    assert 12 <= len(covering_rows(FACTORS)) <= 15  # four times three is the least


def test_no_row_breaks_a_rule_and_what_is_possible_occurs():
    rules = (Rule(("a", "b"), lambda a, b: a != 1 or b == "x"), *only("c", True, d=(0, 1)))
    found = covering_rows(FACTORS, rules)
    assert all(row["b"] == "x" for row in found if row["a"] == 1)
    assert all(row["d"] is not None for row in found if row["c"])
    assert {(row["a"], row["b"]) for row in found} == {(1, "x"), *product((2, 3, 4), "xyz")}
    assert {(row["c"], row["d"]) for row in found} == {(True, 0), (True, 1), *product((False,), (None, 0, 1))}


def test_a_pair_that_only_other_factors_rule_out_is_left_out():
    rules = (*only("a", 1, c=(True,)), *only("b", "x", c=(False,)))
    found = covering_rows(FACTORS, rules)
    pairs = {(row["a"], row["b"]) for row in found}
    assert (1, "x") not in pairs
    assert pairs == set(product((1, 2, 3, 4), "xyz")) - {(1, "x")}


def test_the_rows_are_the_same_each_time():
    assert covering_rows(FACTORS) == covering_rows(FACTORS)


def test_groups_alone_are_covered():
    found = covering_rows(FACTORS, (), [("a", "c")])
    assert {(row["a"], row["c"]) for row in found} == set(product(FACTORS["a"], FACTORS["c"]))
    assert len(found) == 8


CASES = [(family, kind) for family in (rows, patches, attention) for kind in family.KINDS]


@pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda value: getattr(value, "name", ""))
def test_every_pair_of_ordinary_levels_and_every_edge_is_met_on_every_path(family, kind):
    for backend in ("torch", "cpp", "triton", "cuda"):
        for path in family.paths(kind, backend):
            table, edges = family.factors(kind, backend, path)
            found = combinations_of(kind, family, backend, path)
            ordinary = [row for row in found if row["edge"] == "ordinary"]
            if backend in INTERPRETED and path != "eager":  # for which only pairs of a level and a path are required
                levels = {(name, row[name]) for row in ordinary for name in table}
                assert levels >= {(name, level) for name in table for level in table[name]}, (backend, path)
            for one, other in combinations(table, 2) if backend not in INTERPRETED or path == "eager" else ():
                wanted = set(product(table[one], table[other]))
                impossible = {
                    pair
                    for pair in wanted
                    if not all(rule.allows({"edge": "ordinary", one: pair[0], other: pair[1]}) for rule in family.RULES)
                }
                missed = wanted - impossible - {(row[one], row[other]) for row in ordinary}
                assert all(_impossible(family, one, other, pair, table) for pair in missed), (path, one, other, missed)
            assert set(edges) == {row["edge"] for row in found} - {"ordinary"}, (backend, path)


def _impossible(family, one, other, pair, table):
    """Return whether a pair is compatible with no level of some third factor."""
    chosen = {"edge": "ordinary", one: pair[0], other: pair[1]}
    for name, levels in table.items():
        if name not in chosen and not any(
            all(rule.allows({**chosen, name: level}) for rule in family.RULES) for level in levels
        ):
            return True
    return False


def test_edges_of_images_are_what_their_names_say():
    def drawn(edge):
        torch.manual_seed(0)
        return patches._values({"edge": edge}, torch.randn(3, 2, 4, 4, dtype=torch.float64))

    usual = drawn("default kappa")
    assert usual.abs().amax((1, 2, 3)).gt(1).all()
    assert drawn("some zero").abs().amax((1, 2, 3)).gt(0).tolist() == [False, True, True]
    assert not drawn("all zero").any()
    assert drawn("constant").std() == 0 < drawn("nearly constant").std() < 0.01
    for edge in ("tiny", "huge", "the end"):
        assert torch.equal(drawn(edge), usual * patches._SCALES[edge]) and patches._SCALES[edge] != 1
