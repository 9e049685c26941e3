"""Random calls under the sanitizers give no report and no wrong number; damage to a kernel is detected."""

import shutil
from pathlib import Path

import pytest

import affine_divergence
from tests.emitted import file_of, shared_by
from verify.fuzz import command
from verify.fuzz.case import MODES, Case
from verify.fuzz.maps import convolution, rows
from verify.fuzz.operands import LAYOUTS

PACKAGE = Path(affine_divergence.__file__).parent
needs_sanitizers = pytest.mark.skipif(bool(command.missing()), reason=command.missing() or "they are there")


def test_the_same_number_is_the_same_case():
    first, again = ([str(Case(k, (rows, convolution))) for k in range(20)] for _ in range(2))
    assert first == again and len(set(first)) == 20


def test_cases_meet_every_mode_and_layout():
    cases = [Case(k, (rows, convolution)) for k in range(400)]
    assert {c.mode for c in cases} == set(MODES)
    assert {name for c in cases for name in c.layouts} == set(LAYOUTS)


@pytest.mark.parametrize("number", range(12))
def test_a_few_cases_without_sanitizers(number):
    case = Case(number, (rows, convolution))
    assert not case.wrong(), str(case)


@pytest.mark.slow
@needs_sanitizers
@pytest.mark.timeout(900)
def test_no_report_and_no_wrong_number():
    found = command.run(150, first=100_000)
    assert found.good, (found.wrong, found.report[-3000:])


DAMAGE = {
    "one entry behind a row": (
        "rows",
        file_of("cpp", "affine_like.cpp"),
        "for (Offset k = 0; k < m; ++k)",
        "for (Offset k = 0; k <= m; ++k)",
    ),
    "no room for the squares": (
        "convolution",
        shared_by("cpp", "patch_forward.h"),
        "take<Wide>(wanted ? layout_.channel + LANES : 0)",
        "take<Wide>(wanted ? 0 : 0)",
    ),
    "a sign": ("rows", file_of("cpp", "affine_like.cpp"), "f * gW[k] - c * u", "f * gW[k] + c * u"),
}


@pytest.mark.slow
@needs_sanitizers
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_seen(name, tmp_path):
    package = tmp_path / "affine_divergence"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    maps, path, old, new = DAMAGE[name]
    assert old in (package / path).read_text(), "the line to damage is gone: look again"
    (package / path).write_text((package / path).read_text().replace(old, new))
    found = command.run(10, first=50, maps=maps, sanitized=name != "a sign", package=package)
    assert not found.good and (name == "a sign" or "AddressSanitizer" in found.report)


def test_what_lacks_is_said(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert command.main(["--cases", "1"]) == 2
    assert "the sanitizers need g++" in capsys.readouterr().err
