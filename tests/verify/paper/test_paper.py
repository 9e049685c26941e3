"""The document: every reference has a target, every figure exists, and numbers come from the given content."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import affdiv
import derive
from derive.errors import UsageError
from derive.export import pdf
from derive.export.outline import Chapter
from derive.export.summary import full_derivation
from tests.verify.hypotheses.made_up import trials
from verify.checks.record import SCHEMA
from verify.claims.ledger import ledger
from verify.claims.proofs import Proof
from verify.paper.document import document
from verify.paper.gather import Content, read_checks, read_speed, results_folder
from verify.training.sources import Source, load_sources

needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def check(status="pass", measured=0.25, route="identity", **changed):
    """A check as `affdiv verify --json` prints it."""
    own = {"id": f"{route}/linear/kept", "layer": "linear", "backend": "torch", "dtype": "float64", "reason": "why_so"}
    return {**own, "status": status, "measured": measured, "bound": 1.0, **changed}


@pytest.fixture(scope="module")
def content(root):
    rows = trials(
        lambda method, batch_size, **_: 0.8 - 0.001 * batch_size * (method == "affine-like"),
        method=["none", "affine-like"],
        batch_size=[16],
    )
    sources = [Source("made up & <more>", Path("some/made_up.csv"), rows)]
    proofs = {
        "C1": (Proof("linear/self-factor", "the self factor is `sum[j](x[s,j]**2)`", True),),
        "C2": (Proof("elsewhere/self-factor", f"it is `{' + '.join(f'a{i}*b{i}' for i in range(30))}`", False),),
    }
    read = read_speed(root / "paper_notes" / "results")
    speed = {name: [{**run, "rows": run["rows"][:3]} for run in runs[-1:]] for name, runs in read.items()}
    chapters = [Chapter(full_derivation(derive.layer("linear")))]
    return Content(chapters, [check()], speed, sources, ledger(sources, proofs))


@pytest.fixture(scope="module")
def written(content):
    return document(content)


def loose_ends(text, figures):
    """References and figures without a target, and duplicate labels."""
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    named = set(re.findall(r"\\(?:eq)?ref\{([^}]*)\}", text)) - set(labels)
    named |= set(re.findall(r"\\cite\{([^}]*)\}", text)) - set(re.findall(r"\\bibitem\{([^}]*)\}", text))
    return named | {x for x in labels if labels.count(x) > 1} | (set(drawn(text)) ^ set(figures))


def drawn(text):
    return re.findall(r"\\includegraphics\[[^]]*\]\{([^}]*)\}", text)


def test_every_reference_and_figure_is_there_once(written):
    text, figures = written
    assert loose_ends(text, figures) == set()
    assert len(set(drawn(text))) == len(drawn(text)) > 2
    assert all(content.startswith(b"%PDF") for content in figures.values())
    again = text.replace(r"\label{eq:linear/self-factor}", r"\label{eq:linear/forward}")
    assert loose_ends(again, figures) == {"eq:linear/self-factor", "eq:linear/forward"}


def test_the_document_tells_everything(written):
    text, _ = written
    parts = ("Results at a glance", "Set-up", "Linear map", "Verification", "Speed", "Training runs", "Claims ledger")
    places = [text.index(rf"\section{{{part}}}") for part in parts]
    assert places == sorted(places) and r"\bibitem{bird2025affine}" in text
    assert r"\eqref{eq:linear/self-factor}: the self factor is $\lVert x_{s} \rVert^{2}$" in text
    assert "[not proved]" in text and r"a0*b0" in text


def test_its_numbers_are_those_given(content):
    content = replace(content, sources=[], speed={})
    odd = replace(content, checks=[check(measured=0.7312, route="gradient"), check("fail", 3.25), check("skipped")])
    text = document(odd)[0]
    assert "0.73" in text and r"\texttt{identity/linear/kept}: why\_so" in text and "1 checks: why" in text
    text = document(content)[0]
    assert "0.73" not in text and "contains no speed measurements" in text


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match="not a folder; name a folder"):
        results_folder(tmp_path / "nowhere")
    for wrong in ("[", "{}", '{"checks": []}', json.dumps({"schema": SCHEMA, "checks": [{"id": "a"}]})):
        (tmp_path / "checks.json").write_text(wrong)
        with pytest.raises(UsageError, match=r"checks\.json"):
            read_checks(tmp_path / "checks.json")
    with pytest.raises(UsageError, match="affdiv verify --json"):
        read_checks(tmp_path / "none.json")


def test_without_pdflatex_nothing_is_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert affdiv.run(["paper", "linear", "--pdf", "-o", str(tmp_path / "out")]) == 2
    assert "pdflatex was not found" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_writes_all_or_says_what_failed(tmp_path, monkeypatch, capsys, root):
    (tmp_path / "checks.json").write_text(json.dumps({"schema": SCHEMA, "checks": [check("fail")]}))
    (tmp_path / "results").mkdir()
    monkeypatch.setattr("verify.claims.proofs.proofs", dict)
    words = ["paper", "linear", "--json", "-o", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    assert affdiv.run([*words, "--checks", str(tmp_path / "checks.json")]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "affdiv.paper/1" and said["checks"] == {"pass": 0, "fail": 1, "skipped": 0}
    assert said["steps"].keys() == {"proved"} and said["layers"] == ["linear"]
    assert [Path(path).is_file() for path in said["written"]] == [True]


@needs_tex
@pytest.mark.slow
def test_it_compiles_and_nothing_sticks_out(content, tmp_path, root):
    results = root / "paper_notes" / "results"
    sources = [*content.sources, *load_sources([results / "attention-shakespeare.csv"], [])]
    whole = replace(content, sources=sources, entries=ledger(sources, {}), speed=read_speed(results))
    text, figures = document(whole)
    (tmp_path / pdf.FIGURES).mkdir()
    for name, figure in figures.items():
        (tmp_path / name).write_bytes(figure)
    (tmp_path / "paper.tex").write_text(text, encoding="utf-8")
    (tmp_path / "build").mkdir()
    log = pdf.run_pdflatex(tmp_path / "paper.tex", tmp_path / "build")
    assert [points for points in pdf.overfull_points(log) if points > 2.0] == []
    assert "multiply defined" not in log and "undefined on input" not in log
    assert log.count("figures/") >= len(figures)
