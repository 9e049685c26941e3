"""The unscaled fast path for a row's squares: which loops have one, and which lines are repeated after it."""

from codegen.targets.cpp.unscaled_fast_path import with_trial

SCALE = "const Wide y_factor = Wide(1) / peak;"


def loop(sums, lines=(), after=(), largest=(), stores=()):
    return {"sums": list(sums), "largest": list(largest), "stores": list(stores), "lines": list(lines), "totals": [],
            "after": list(after)}  # fmt: skip


MAGNITUDE = loop(["peak"], after=[SCALE], largest=["peak"])
SQUARES = loop(["q"], ["const Wide y = y_factor * x[k];", "q += y * y;"])


def test_a_magnitude_and_sums_are_a_trial():
    found = with_trial({"loops": [MAGNITUDE, SQUARES, loop([], ["z[k] = f * x[k];"], stores=["z"])]})
    assert found["trial"]["in_range"] == "in_range(q)" and found["trial"]["again"] == []
    assert len(found["loops"]) == 1
    several = with_trial({"loops": [MAGNITUDE, loop(["q", "p"])]})
    assert several["trial"]["in_range"] == "(in_range(q) && in_range(p))"


def test_what_is_read_behind_the_trial_is_said_again():
    for later in ([loop([], ["z[k] = y_factor * x[k];"], stores=["z"])], []):
        squares = SQUARES if later else {**SQUARES, "after": ["const Wide f = y_factor * q;"]}
        assert with_trial({"loops": [MAGNITUDE, squares, *later]})["trial"]["again"] == [SCALE]


def test_other_loops_are_left_as_they_are():
    for loops in ([MAGNITUDE], [SQUARES, MAGNITUDE], [MAGNITUDE, loop([], ["z[k] = x[k];"], stores=["z"])]):
        assert with_trial({"loops": loops}) == {"loops": loops, "trial": None}
    assert with_trial({"kind": "columns"})["trial"] is None
