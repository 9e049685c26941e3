"""The command line as a process: help, speed, exit codes and messages that need no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMANDS = ("run", "layers", "derive", "solve", "latex", "generate", "verify", "diagnose", "experiment")
HELP_SECONDS = 0.5

Affdiv = Callable[..., "subprocess.CompletedProcess[str]"]


def assert_one_message(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit 2, nothing on standard output, one ``error:`` line that holds every word."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert [word for word in words if word not in done.stderr] == []


def test_help_names_every_command_and_fits_80_columns(affdiv: Affdiv) -> None:
    done = affdiv("--help")
    assert done.returncode == 0
    assert [name for name in COMMANDS if f" {name} " not in done.stdout] == []
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_no_arguments_print_the_help(affdiv: Affdiv) -> None:
    assert affdiv().stdout == affdiv("--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(affdiv: Affdiv, command: str) -> None:
    done = affdiv(command, "--help")
    assert done.returncode == 0
    assert f"affdiv {command}" in done.stdout


def test_help_is_quick(affdiv: Affdiv) -> None:
    def seconds() -> float:
        # Processor time of the child: a busy machine does not add to it.
        start = sum(os.times()[2:4])
        affdiv("--help")
        return sum(os.times()[2:4]) - start

    assert min(seconds() for _ in range(5)) < HELP_SECONDS


def test_version(affdiv: Affdiv) -> None:
    from affdiv import __version__

    assert affdiv("--version").stdout == f"affdiv {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["layerz"], ["'layerz'", "Did you mean 'layers'?"]),
        (["qqqq"], ["'qqqq'", "affdiv --help"]),
        (["derive"], ["affdiv derive --help"]),
        (["derive", "affine", "--no-such-option"], ["--no-such-option", "affdiv derive --help"]),
        (["verify", "affine", "--device"], ["--device"]),
        (["verify", "affine", "--seed", "x"], ["'--seed'", "'x'", "integer"]),
    ],
)
def test_wrong_words(affdiv: Affdiv, arguments: list[str], words: list[str]) -> None:
    assert_one_message(affdiv(*arguments), *words)


@pytest.mark.parametrize("command", ["derive", "solve", "latex", "verify"])
def test_unknown_layer_names_the_known_ones(affdiv: Affdiv, command: str) -> None:
    assert_one_message(affdiv(command, "afine"), "afine", "affine")


def test_no_colour_when_asked(affdiv: Affdiv) -> None:
    assert "\x1b[" not in affdiv("layers", NO_COLOR="1").stdout


def test_a_reader_that_leaves_is_no_error(root: Path) -> None:
    command = [sys.executable, str(root / "affdiv.py"), "derive", "affine", "--json"]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert errors == ""
