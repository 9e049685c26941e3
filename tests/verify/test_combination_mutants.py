"""The verifier itself: damage to the emitted package must fail `affdiv verify --package`, by the check of its part.

Each edit of the table is made in a copy; the check that it names is one that the plain command runs. No check compares
text. ``SURVIVORS`` explains the edits that no check detects.
"""

import shutil
from pathlib import Path

import pytest

import affdiv
import affine_divergence
from tests.verify.emitted import emitted
from tests.verify.mutants import MUTANTS

PACKAGE = Path(affine_divergence.__file__).parent
SURVIVORS: dict[str, str] = {}
QUICK = {"tangent without kappa", "last block lost", "masks the other way round", "default of kappa"}
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MUTANTS]


@pytest.mark.parametrize("name", MUTANTS)
def test_an_edit_changes_one_place_of_a_file(name):
    mutant = MUTANTS[name]
    text = emitted(PACKAGE, mutant.target, mutant.file).read_text(encoding="utf-8")
    assert mutant.applied(text) != text


def test_the_table_is_wide():
    assert len(MUTANTS) >= 60
    assert {mutant.target for mutant in MUTANTS.values()} == {"torch", "cpp", "triton", "cuda", "runtime", "public"}
    assert set(SURVIVORS) <= set(MUTANTS)
    assert len(SURVIVORS) <= 2


@pytest.mark.parametrize("name", CASES)
def test_damage_fails_the_check_of_what_it_broke(name, tmp_path, capsys):
    mutant = MUTANTS[name]
    copy = Path(shutil.copytree(PACKAGE, tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__")))
    file = emitted(copy, mutant.target, mutant.file)
    file.write_text(mutant.applied(file.read_text(encoding="utf-8")), encoding="utf-8")
    code = affdiv.run(["verify", mutant.layer, "--package", str(copy), "--only", mutant.check])
    printed = capsys.readouterr().out
    if name in SURVIVORS:
        assert code == 0, printed
        return
    assert code == 1, printed
    assert f"failed: {mutant.check} (equation " in printed
    assert f"--only {mutant.check} --seed 0 --package {copy}" in printed


@pytest.mark.slow
@pytest.mark.parametrize("layer", sorted({mutant.layer for mutant in MUTANTS.values()}))
def test_the_package_itself_passes_the_checks_that_damage_fails(layer, tmp_path, capsys):
    checks = dict.fromkeys(mutant.check for mutant in MUTANTS.values() if mutant.layer == layer)
    copy = shutil.copytree(PACKAGE, tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))
    only = [word for check in checks for word in ("--only", check)]
    assert affdiv.run(["verify", layer, "--package", str(copy), *only]) == 0, capsys.readouterr().out
