"""The mathematics on the command line: output, width, exit codes, written files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import derive
import derive.cli
from derive.errors import UsageError
from derive.export import summary
from derive.record import Derivation, Status, Step, Verdict

Affdiv = Callable[..., "subprocess.CompletedProcess[str]"]
COLUMNS = 80
LAYERS_COST = 4  # times an import of SymPy, whose time depends on the machine
SPEC = """
name = "scaled_affine"
sizes = ["n", "m"]
[input]
x = ["n"]
[parameters]
W = ["m", "n"]
b = ["m"]
[output]
z = ["m"]
formula = "z[i] = 2*sum[j](W[i, j] * x[j]) + b[i]"
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "scaled.toml"
    path.write_text(SPEC, encoding="utf-8")
    return path


def children_seconds() -> float:
    """Return the processor time of all ended child processes; other work on the machine does not count."""
    return sum(os.times()[2:4])


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_layers_names_every_layer_and_is_quick(affdiv: Affdiv) -> None:
    times, imports = [], []
    for _ in range(3):
        start = children_seconds()
        done = affdiv("layers")
        between = children_seconds()
        subprocess.run([sys.executable, "-c", "import sympy"], check=True)
        times.append(between - start)
        imports.append(children_seconds() - between)
    assert min(times) < LAYERS_COST * min(imports)
    assert done.returncode == 0
    assert widest(done.stdout) <= COLUMNS
    first_words = {line.split()[0] for line in done.stdout.splitlines() if line and not line.startswith(" ")}
    assert set(derive.layer_names()) <= first_words


def test_layers_as_json(affdiv_here: Affdiv) -> None:
    data = json.loads(affdiv_here("layers", "--json").stdout)
    assert data["schema"] == "affdiv.layers/1"
    rows = {row["name"]: row for row in data["layers"]}
    assert rows["affine"]["self_factor"]["text"] == "sum[j](x[s,j]**2) + 1"
    assert [found["name"] for found in rows["affine"]["maps"]] == ["norm-like", "affine-like"]
    assert set(rows["affine"]["generated"]) <= {"norm-like", "affine-like"}
    assert rows["rms-norm"]["self_factor"] is None


def test_derive_shows_the_steps(affdiv_here: Affdiv) -> None:
    done = affdiv_here("derive", "affine")
    assert done.returncode == 0
    assert widest(done.stdout) <= COLUMNS
    for part in ("affine/self-factor", "sum[j](x[s,j]**2) + 1", "exact for any eta", "isotropic, parameter-free"):
        assert part in done.stdout


@pytest.mark.parametrize("layer", ["convolution", "attention", "gated"])
def test_long_formulas_fit_the_terminal(affdiv_here: Affdiv, layer: str) -> None:
    assert widest(affdiv_here("derive", layer).stdout) <= COLUMNS


def test_derive_check_verifies_every_step(affdiv: Affdiv) -> None:
    done = affdiv("derive", "affine", "--check")
    assert done.returncode == 0
    assert "[proved]" in done.stdout
    assert "steps, those of the cancelling maps included: " in done.stdout.splitlines()[-1]
    assert done.stderr == ""


def test_derive_as_json(affdiv_here: Affdiv) -> None:
    data = json.loads(affdiv_here("derive", "linear", "--check", "--json").stdout)
    assert data["schema"] == "affdiv.derivation/1"
    assert {step["status"] for step in data["steps"]} <= {"proved", "sampled"}
    assert [found["name"] for found in data["solutions"]] == ["norm-like"]


def test_derive_under_another_rule(affdiv_here: Affdiv) -> None:
    data = json.loads(affdiv_here("derive", "affine", "--rule", "nlms", "--json").stdout)
    assert data["rule"] == "nlms"


def test_solve(affdiv_here: Affdiv) -> None:
    done = affdiv_here("solve", "affine")
    assert done.returncode == 0
    assert widest(done.stdout) <= COLUMNS
    for part in ("affine-like (non-normalising)", "f = sqrt(kappa)/sqrt(E[s] + 1)", "residual", "scale invariant"):
        assert part in done.stdout
    assert "no non-normalising map" in affdiv_here("solve", "linear").stdout


def test_solve_as_json_and_at_an_angle(affdiv_here: Affdiv) -> None:
    data = json.loads(affdiv_here("solve", "affine", "--angle", "2*atan(r/2)", "--json").stdout)
    assert [found["name"] for found in data["solutions"]] == ["norm-like", "affine-like", "angle"]
    assert data["solutions"][2]["residual"]["text"] == "0"


def test_a_layer_from_a_file(affdiv_here: Affdiv, spec: Path) -> None:
    data = json.loads(affdiv_here("derive", str(spec), "--json").stdout)
    assert data["layer"] == "scaled_affine"
    assert data["self_factor"]["text"] == "4*sum[j](x[s,j]**2) + 1"
    assert affdiv_here("solve", str(spec)).returncode == 0


@pytest.mark.parametrize(
    ("form", "start"),
    [("latex", r"\documentclass"), ("markdown", "# The"), ("mathml", "<div"), ("html", "<!DOCTYPE html>")],
)
def test_latex_writes_every_format(affdiv_here: Affdiv, tmp_path: Path, form: str, start: str) -> None:
    target = tmp_path / "out"
    done = affdiv_here("latex", "linear", "--no-check", "--format", form, "-o", str(target))
    assert (done.returncode, done.stdout) == (0, f"wrote {target}\n")
    written = target.read_text(encoding="utf-8")
    assert written.startswith(start)
    assert affdiv_here("latex", "linear", "--no-check", "--format", form).stdout == written
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_latex_says_what_was_checked(affdiv_here: Affdiv, spec: Path) -> None:
    done = affdiv_here("latex", str(spec), "--format", "markdown")
    assert done.returncode == 0
    assert r"\[proved\]" in done.stdout


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(affdiv: Affdiv, tmp_path: Path) -> None:
    done = affdiv("latex", "linear", "--no-check", "--pdf", "-o", str(tmp_path / "paper.tex"))
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["paper.pdf", "paper.tex"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["derive", "afine"], ["'afine'", "did you mean 'affine'", "Known layers: ", "linear"]),
        (["solve", "nothing.toml"], ["nothing.toml", "is not a file"]),
        (["derive", "affine", "--rule", "sgdd"], ["'sgdd'", "known: sgd"]),
        (["solve", "affine", "--angle", "__import__('os')"], ["<angle>"]),
        (["latex", "affine", "--format", "word"], ["word"]),
        (["latex", "affine", "--pdf"], ["--pdf needs a file to write"]),
        (["latex", "affine", "--pdf", "-o", "a.pdf"], ["does not end in .tex"]),
        (
            ["latex", "linear", "--no-check", "-o", "no/such/folder/a.tex"],
            ["the folder 'no/such/folder' does not exist"],
        ),
        (["latex", "linear", "--no-check", "-o", "tests"], ["it is a folder"]),
        (["derive", "rms-norm"], ["'rms-norm' depends on no parameter"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(affdiv_here: Affdiv, arguments: list[str], words: list[str]) -> None:
    done = affdiv_here(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def spoilt(derivation: Derivation, status: Status) -> Derivation:
    """The derivation with one step that is refuted or unverified."""

    def spoil(step: Step) -> Step:
        return replace(step, verdict=Verdict(status, "3 is not 4")) if step.id.endswith("/self-factor") else step

    return replace(derivation, steps=tuple(map(spoil, derivation.steps)))


@pytest.mark.parametrize("status", [Status.REFUTED, Status.UNVERIFIED])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_step_that_does_not_hold_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, status: Status, options: list[str]
) -> None:
    full = summary.full_derivation(derive.layer("linear"))
    monkeypatch.setattr(summary, "full_derivation", lambda layer: full)
    monkeypatch.setattr(Derivation, "check", lambda self: spoilt(self, status))
    app = typer.Typer()
    derive.cli.register(app)
    done = CliRunner().invoke(app, ["derive", "linear", "--check", *options])
    assert done.exit_code == 1
    assert f"linear/self-factor: {status.value}: 3 is not 4" in done.stderr
    if options:
        assert json.loads(done.stdout)["layer"] == "linear"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from derive.export.files import write_text

    target = tmp_path / "kept.md"
    write_text(target, "old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(UsageError, match="No space left on device"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
