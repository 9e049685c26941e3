"""With a fault anywhere in the deriver, ``affdiv derive --check`` exits with 1 and names the refuted statement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

import derive.cli
from tests.derive.faults import FAULTS
from tests.derive.patches import LAYERS, Fault, fresh, text
from tests.marks import one_in


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    with fresh():
        yield


def check(layer: str, rule: str, folder: Path) -> Result:
    """Run the command itself, in this process."""
    app = typer.Typer()
    derive.cli.register(app)
    name = layer
    if layer in LAYERS:
        (folder / "made.toml").write_text(text(layer))
        name = str(folder / "made.toml")
    return CliRunner().invoke(app, ["derive", name, "--check", "--rule", rule])


def slow(layer: str) -> tuple[pytest.MarkDecorator, ...]:
    """The marks of a layer: ``slow`` if it takes seconds."""
    return (pytest.mark.slow,) if layer in ("attention-value", "transposed-convolution-1d", "halves") else ()


FOUND = [pytest.param(fault, id=name, marks=slow(fault.layer)) for name, fault in FAULTS.items()]
RIGHT = [pytest.param(*pair, marks=slow(pair[0])) for pair in sorted({(f.layer, f.rule) for f in FAULTS.values()})]


def test_there_are_many_of_each_kind() -> None:
    assert sum(not fault.marks for fault in FOUND) >= 60


@pytest.mark.parametrize(("layer", "rule"), one_in(2, RIGHT))
def test_without_a_fault_everything_holds(layer: str, rule: str, tmp_path: Path) -> None:
    done = check(layer, rule, tmp_path)
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("fault", one_in(3, FOUND))
def test_a_fault_is_found(fault: Fault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as inner:
        fault.patch(inner)
        done = check(fault.layer, fault.rule, tmp_path)
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), (done.exception, done.output[-2000:])
    assert "refuted" in done.stderr or "unverified" in done.stderr
