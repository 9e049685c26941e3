"""Templates hold signatures, memory and checks, but no result of the mathematics."""

import re
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[2] / "codegen"
TEMPLATES = sorted([*ROOM.glob("targets/torch/templates/*.jinja"), *ROOM.glob("runtime/*.py")])
FORMULAS = [
    r"sqrt",
    r"kappa\s*[-+*/]",
    r"[-+*/]\s*kappa",
    r"\+\s*1\b(?!\])",
    r"[a-zA-Z)\]]\s@\s",
    r"F\.linear\(",
    r"addcmul|mul_|addmm",
]
LENGTHS = r"\+\s*1\b(?!\])"  # lengths of windows and filters, which are not part of a map
LOW_RANK = r"[a-zA-Z)\]]\s@\s"  # the product of an adapter's two factors, which peft defines
ALLOWED = {
    "peft_lora.py.jinja": {LOW_RANK},
    "rows.py": {"sqrt"},
    "patches.py": {LENGTHS, r"addcmul|mul_|addmm"},
    "patch_checks.py": {LENGTHS},
    "patch_settings.py": {LENGTHS},
    "self_factors.py.jinja": {LENGTHS},
    "windows.py": {LENGTHS},
    "patch_modules.py.jinja": {LENGTHS},
}


def without_holes(text):
    return re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", text, flags=re.S)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.name)
def test_no_formula_is_typed_in_a_template(path):
    text = without_holes(path.read_text(encoding="utf-8"))
    found = {pattern for pattern in FORMULAS if re.search(pattern, text)}
    assert not found - ALLOWED.get(path.name, set())


def test_the_patterns_find_a_planted_formula():
    planted = "f = math.sqrt(kappa) / torch.sqrt(q + 1)\nz = F.linear(x, W).mul_(f)\nd = g @ W\n"
    found = [p for p in FORMULAS if re.search(p, planted)]
    assert len(found) == len(FORMULAS) - 2, "all but the two for kappa, which the next line tests"
    assert re.search(FORMULAS[1], "kappa - 1") and re.search(FORMULAS[2], "1 / kappa")


def test_there_are_templates():
    assert len(TEMPLATES) >= 6
