"""Versions outside the tested ranges are reported, others are not, and the table agrees with pyproject.toml."""

import re
import tomllib

import pytest
import sympy

from derive import versions
from derive.versions import TESTED, UntestedVersionWarning, untested, warn_of_untested


@pytest.mark.parametrize("name", TESTED)
def test_a_version_on_either_side_is_named(name):
    (major, first), (_, last) = TESTED[name]
    inside = [f"{major}.{first}", f"{major}.{last}.9", f"{major}.{last}.0+cpu", f"{major}.{first}.0rc1"]
    outside = [f"{major}.{first - 1}.9", f"{major}.{last + 1}", f"{major + 1}.0.0"]
    assert [list(untested({name: text})) for text in inside] == [[]] * 4
    for text in outside:
        (said,) = untested({name: text})
        assert said.startswith(f"{name} {text} (tested: {major}.{first} to {major}.{last})")


def test_a_version_that_cannot_be_read_is_passed_over():
    assert list(untested({"torch": "unknown"})) == []


def test_one_warning_names_all_and_processes_below_stay_quiet(monkeypatch):
    monkeypatch.delenv(versions._TOLD, raising=False)
    monkeypatch.setattr(versions, "_installed", lambda: {"torch": "1.0", "sympy": "9.9.9"})
    with pytest.warns(UntestedVersionWarning, match=r"torch 1\.0 .*sympy 9\.9\.9 .*install a tested version") as found:
        warn_of_untested()
        warn_of_untested()  # as in a worker, which inherits the environment
    assert len(found) == 1


def test_what_is_installed_is_seen():
    assert versions._installed()["sympy"] == sympy.__version__


@pytest.mark.parametrize("name", sorted(set(TESTED) - {"Python"}))
def test_the_ranges_declared_are_those_tested(root, name):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    (text,) = (d for d in declared if d.startswith(f"{name}>"))
    found = re.match(rf"{name}>=(\d+)\.(\d+),<(\d+)\.(\d+)\b", text)
    first, (major, last) = TESTED[name]
    assert found and tuple(map(int, found.groups())) == (*first, major, last + 1)
