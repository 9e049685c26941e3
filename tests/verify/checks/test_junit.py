"""JUnit XML: counts, failures with their command, skips with their reason, and text that XML cannot hold."""

from xml.etree import ElementTree

import pytest

import affdiv
from verify.checks.junit import junit
from verify.checks.record import Outcome, Setting, Task
from verify.checks.runner import run_task

SETTING = Setting(seed=4)


def check(identity, outcome):
    return run_task(Task(identity, "affine", "torch", "float64", "affine/test", lambda setting: outcome), SETTING)


@pytest.fixture
def document():
    checks = [
        check("identity/affine/good", Outcome("fine", ok=True)),
        check("identity/affine/bad", Outcome("off by <much> & \x00", measured=2.0, bound=1.0)),
        check("gradient/affine/none", Outcome("no such device")),
    ]
    return ElementTree.fromstring(junit(checks, SETTING).encode())


def test_counts_by_family(document):
    assert (document.get("tests"), document.get("failures"), document.get("skipped")) == ("3", "1", "1")
    suites = {suite.get("name"): suite for suite in document.iter("testsuite")}
    assert suites["identity"].get("failures") == "1" and suites["gradient"].get("failures") == "0"
    assert {p.get("value") for p in document.iter("property")} == {"4"}


def test_a_failure_carries_its_numbers_and_its_command(document):
    (failure,) = document.iter("failure")
    assert failure.get("message") == "off by <much> & ?"
    assert failure.get("type") == "affine/test"
    assert failure.text.splitlines() == [
        "measured 2.0, bound 1.0",
        "repeat: affdiv verify affine --only identity/affine/bad --seed 4",
    ]


def test_a_skip_carries_its_reason(document):
    (skipped,) = document.iter("skipped")
    assert skipped.get("message") == "no such device"


def test_the_command_writes_it(tmp_path, capsys):
    target = tmp_path / "new" / "checks.xml"
    words = ["verify", "affine", "--only", "identity/affine/self-factor", "--junit", str(target)]
    assert affdiv.run(words) == 0
    (case,) = ElementTree.parse(target).iter("testcase")
    assert (case.get("name"), case.get("classname")) == ("identity/affine/self-factor", "affine.torch.nn.cpu.float64")
    assert [p.name for p in target.parent.iterdir()] == ["checks.xml"]


def test_a_folder_in_its_place_is_refused_before_any_work(tmp_path, capsys):
    assert affdiv.run(["verify", "affine", "--only", "identity/affine/self-factor", "--junit", str(tmp_path)]) == 2
    assert "is a folder where a file should go" in capsys.readouterr().err
