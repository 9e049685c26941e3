"""The table of damage against the emitted package: every edit finds its place, whatever the layout of the files."""

from pathlib import Path

import pytest

import affine_divergence
from tests.verify.emitted import emitted
from tests.verify.mutants import MUTANTS

PACKAGE = Path(affine_divergence.__file__).parent


@pytest.mark.parametrize("name", MUTANTS)
def test_an_edit_changes_one_place_of_a_file(name):
    mutant = MUTANTS[name]
    text = emitted(PACKAGE, mutant.target, mutant.file).read_text(encoding="utf-8")
    assert mutant.applied(text) != text
