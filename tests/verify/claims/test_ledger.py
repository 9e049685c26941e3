"""The committed ledger is what the command writes; every verdict follows from equations or from trials."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sympy

import affdiv
from derive.record import Status, Verdict
from tests.verify.hypotheses.made_up import as_model, row, trials
from verify.claims import proofs
from verify.claims.ledger import CLAIMS, UNTESTED, ledger
from verify.claims.markdown import markdown
from verify.derived import derived
from verify.training.export import to_csv
from verify.training.sources import Source, load_sources

NOTES = Path(__file__).resolve().parents[3] / "paper_notes"


def test_the_committed_ledger_is_what_the_command_writes():
    entries = ledger(load_sources([NOTES / "results"], []), proofs.proofs())
    mend = "run `affdiv claims --table paper_notes/results -o paper_notes/claims.md`"
    assert markdown(entries, NOTES) == (NOTES / "claims.md").read_text(encoding="utf-8"), mend


def test_every_claim_has_evidence_of_a_kind_and_every_equation_is_derived():
    found = proofs.proofs()
    assert [claim.id for claim in CLAIMS] == [f"C{k}" for k in range(1, 11)]
    assert all(claim.id in found or claim.hypotheses for claim in CLAIMS)
    equations = {proof.equation for of_claim in found.values() for proof in of_claim}
    told = (NOTES / "derivation.md").read_text(encoding="utf-8")
    assert {equation for equation in equations if equation not in told} == {
        "residual/self-factor",
        "attention-projection/self-factor",
    }
    assert all(proof.holds for of_claim in found.values() for proof in of_claim)


def affine_like():
    return next(m for m in derived("affine").solutions if m.name == "affine-like")


@pytest.mark.parametrize(
    "change",
    [
        {"residual": sympy.Integer(1)},
        {"kind": "normalising"},
        {"steps": lambda steps: [replace(s, verdict=Verdict(Status.REFUTED, "broken")) for s in steps]},
        {"steps": lambda steps: [replace(s, after=s.after + 1) for s in steps]},
    ],
    ids=["residual", "kind", "refuted", "wrong"],
)
def test_a_map_that_does_not_cancel_is_not_proved(change):
    found = affine_like()
    changed = {k: tuple(v(getattr(found, k))) if callable(v) else v for k, v in change.items()}
    assert proofs.cancels(found, "non-normalising").holds
    assert not proofs.cancels(replace(found, **changed), "non-normalising").holds


@pytest.mark.parametrize("name", ["scale_invariant", "injective", "singular_at_zero"])
def test_a_property_that_is_otherwise_is_not_proved(name):
    found = affine_like()
    claimed = {"invariant": False, "injective": True, "singular": False}
    assert proofs.properties(found, **claimed).holds
    otherwise = tuple(replace(p, value=not p.value) if p.name == name else p for p in found.properties)
    assert not proofs.properties(replace(found, properties=otherwise), **claimed).holds


def test_a_layer_without_divergence_is_not_said_to_have_one():
    assert not proofs.unequal(derived("embedding").check()).holds
    assert not proofs.equal(derived("affine").check()).holds
    assert not proofs.mitigated(derived("affine").check()).holds
    assert not proofs.splits(replace(affine_like(), decomposition=())).holds


def better(gain, **lists):
    return trials(
        lambda method, **_: 0.8 + gain.get(method, 0.0), method=["none", "batch-norm", "affine-like"], **lists
    )


def training_says(rows, claim):
    return next(e for e in ledger([Source("made-up", Path("made-up.csv"), rows)], {}) if e.claim.id == claim).tested


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        ({"affine-like": 0.05}, "supported"),
        ({"affine-like": -0.05}, "contradicted"),
        ({"affine-like": -0.005}, "inconclusive"),
        ({"none": -0.05, "batch-norm": 0.05}, "mixed"),
        ({"none": -0.05, "batch-norm": 0.005}, "supported in part"),
    ],
)
def test_a_verdict_on_a_claim_follows_from_the_table_alone(gain, expected):
    rows = better(gain)
    assert training_says(rows, "C5") == expected
    assert {training_says(rows, claim) for claim in ("C6", "C7", "C8", "C10")} == {UNTESTED}


def test_a_transformer_is_evidence_for_the_claim_on_attention():
    rows = as_model("transformer", better({}, loss=lambda **_: 1.0))
    assert training_says(rows, "C10") == "supported"


@pytest.fixture
def cheap(monkeypatch):
    """The command without its derivations, which other tests here run."""
    monkeypatch.setattr(proofs, "proofs", lambda: {"C1": (proofs.Proof("affine/self-factor", "as claimed", True),)})


@pytest.mark.usefixtures("cheap")
def test_the_command_judges_tables_and_links_to_them(tmp_path, capsys, monkeypatch):
    rows = [row(method=m, accuracy=a, seed=s) for m, a in (("affine-like", 0.9), ("none", 0.8)) for s in range(6)]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.csv").write_text(to_csv(rows))
    monkeypatch.chdir(tmp_path)
    assert affdiv.run(["claims", "--table", "results", "-o", "new/claims.md", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["schema"] == "affdiv.claims/1"
    by_id = {claim["id"]: claim for claim in printed["claims"]}
    assert (by_id["C1"]["derived"], by_id["C5"]["tested"]) == ("proved", "supported")
    text = (tmp_path / "new" / "claims.md").read_text()
    assert "[mine.csv](../results/mine.csv)" in text and "**supported**" in text
    assert affdiv.run(["claims", "--table", "results/mine.csv"]) == 0
    assert "[mine.csv](results/mine.csv)" in capsys.readouterr().out
    assert affdiv.run(["claims", "--table", "absent.csv"]) == 2
    assert "table 'absent.csv' does not exist" in capsys.readouterr().err
    page = ["report", "--table", "results", "-o", "report.html"]
    assert affdiv.run(page) == 0
    assert "H3 supported" in capsys.readouterr().out


def test_what_is_not_proved_ends_with_code_1(capsys, monkeypatch):
    monkeypatch.setattr(proofs, "proofs", lambda: {"C1": (proofs.Proof("affine/self-factor", "otherwise", False),)})
    assert affdiv.run(["claims"]) == 1
    assert "not proved by derivation" in capsys.readouterr().out


def test_a_table_and_a_store_of_one_name_stay_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.csv").write_text(to_csv([row()]))
    assert [s.name for s in load_sources([tmp_path / "a", tmp_path / "b"], [])] == ["mine", "mine-2"]
