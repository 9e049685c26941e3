"""The atlas: every layer's file reads, its kernel is that of automatic differentiation, its kept row is current."""

from __future__ import annotations

import difflib
import itertools
import json
import random

import pytest
import torch
from typer.testing import CliRunner

from affdiv import app
from derive import atlas
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import REAL
from derive.export.atlas import atlas_blocks, rule_lines
from derive.export.html import page
from derive.export.summary import digest
from derive.layers import layer
from derive.optimisers import OPTIMISERS
from derive.update import effective_update
from tests.derive.atlas_references import REFERENCES, SCALARS
from tests.derive.references import Trial
from tests.derive.test_zoo import Given, point
from verify.checks.layer_files.formula import Formula

EVERYDAY = {"swiglu", "weight-norm", "lora", "cross-entropy"}
UPDATE = "pytest tests/derive/test_atlas.py --update -m slow"
every = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in EVERYDAY else pytest.mark.slow) for n in atlas.names()]
)


def trial(name):
    """The layer at small sizes, with an independent reference that autograd differentiates."""
    known = atlas.load(name)
    sizes = {str(s): 2 for s in known.sizes} | {"n": 3, "B": 2}
    if name == "separable-convolution":
        sizes |= {"L": 3, "P": 2}
    made = Trial(known, lambda v, _: REFERENCES[name](v), sizes, scalars=SCALARS)
    made.tensors.update({s.name: torch.tensor(SCALARS[s.name], dtype=torch.float64) for s in known.scalars})
    return made


@every
def test_the_kernel_is_that_of_automatic_differentiation(name, monkeypatch):
    made = trial(name)
    monkeypatch.setattr(Given, "tensors", made.tensors, raising=False)
    kernel, derivation = made.kernel(), effective_update(made.layer)
    indices = made.layer.output.indices
    places = list(itertools.product(*map(range, made.output().shape)))
    pairs = list(itertools.product(places, places))
    with REAL.context():
        for here, there in random.Random(2).sample(pairs, min(8, len(pairs))):
            at = dict(zip((*indices, *(i.primed() for i in indices)), here + there, strict=True))
            expected = pytest.approx(float(kernel[here + there]), rel=1e-9, abs=1e-9)
            assert float(evaluate(derivation.kernel, at, point(made, derivation.layer))) == expected


@pytest.mark.parametrize("name", atlas.names())
def test_a_file_is_the_layer_that_it_says(name):
    made = trial(name)
    formula = Formula(made.layer, made.tensors, SCALARS, made.sizes).output()
    torch.testing.assert_close(formula, made.output(), rtol=1e-11, atol=1e-11)


def test_a_file_that_is_not_its_layer_is_seen(monkeypatch):
    monkeypatch.setitem(REFERENCES, "bilinear", lambda v: v["x"] @ v["W"].T)
    with pytest.raises(AssertionError, match="not close"):
        test_a_file_is_the_layer_that_it_says("bilinear")


def test_every_file_has_its_place_and_its_source():
    files = {path.stem.replace("_", "-") for path in atlas.FOLDER.glob("*.toml")}
    assert files == set(atlas.names()) and len(atlas.names()) == len(files)
    for name in atlas.names():
        known = atlas.load(name)
        assert known.notes[0].startswith("Source: ") and any(c.isdigit() for c in atlas.source(known)), name
    assert layer("swiglu") == atlas.load("swiglu")


def test_the_kept_table_is_current():
    kept = atlas.kept_rows()
    for name in atlas.names():
        assert kept.get(name, {}).get("forward_map") == digest(atlas.load(name)), f"{name} is stale: run `{UPDATE}`"
        assert set(kept[name]["steps"]) <= {"proved", "sampled"}, name
        assert kept[name]["maps"] or kept[name]["refusals"], name
    assert list(kept) == list(atlas.names())


@pytest.mark.slow
def test_the_kept_table_is_what_is_derived(update):
    text = atlas.table_text(atlas.rows(kept={}))
    if update:
        atlas.TABLE.write_text(text, encoding="utf-8", newline="\n")
    kept = atlas.TABLE.read_text(encoding="utf-8")
    difference = list(difflib.unified_diff(kept.splitlines(), text.splitlines(), "kept", "derived", lineterm="", n=1))
    assert kept == text, "\n".join([*difference[:40], f"run `{UPDATE}`"])


def test_the_list_and_the_page_hold_every_layer(tmp_path):
    done = CliRunner().invoke(app, ["atlas"])
    assert done.exit_code == 0 and all(f"  {name}: " in done.stdout for name in atlas.names())
    assert all(f"  {rule}" in done.stdout for rule in OPTIMISERS) and "NaLaFormer" in done.stdout
    written = CliRunner().invoke(app, ["atlas", "--html", str(tmp_path / "atlas.html")])
    assert written.exit_code == 0
    text = (tmp_path / "atlas.html").read_text(encoding="utf-8")
    assert all(atlas.load(name).title in text for name in atlas.names()) and text.count("<math") > 150
    data = json.loads(CliRunner().invoke(app, ["atlas", "--json"]).stdout)
    assert [row["name"] for row in data["layers"]] == list(atlas.names())
    assert len(rule_lines()) == len(OPTIMISERS) and page(atlas_blocks(atlas.rows()))
