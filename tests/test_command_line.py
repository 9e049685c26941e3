"""The command line as a process: help, speed, exit codes, and error messages without a traceback."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from affdiv import app

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = ("run", "layers", "derive", "solve", "latex", "generate", "verify", "diagnose", "experiment")
HELP_COST = 4  # times the import of the libraries that print it; measured: 2.6

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


def test_no_arguments_greet_with_three_commands_that_exist(affdiv: Affdiv) -> None:
    done = affdiv()
    named = re.findall(r"^  affdiv (\w+)", done.stdout, flags=re.M)
    assert done.returncode == 0 and len(named) == 3 and "affdiv --help" in done.stdout
    assert [name for name in named if f" {name} " not in affdiv("--help").stdout] == []


def test_helps_are_broken_where_the_terminal_ends_and_cut_nowhere() -> None:
    for path, command in leaves(typer.main.get_command(app)):
        assert [part for part in (command.help or "").split("\n\n") if "\n" in part] == [], path
        for parameter in command.params:
            assert len(getattr(parameter, "metavar", None) or "") <= 16, (path, parameter.name)


def leaves(command: object, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command with a function, and the words that call it."""
    below = getattr(command, "commands", None)
    if not below:
        yield " ".join(path), command
    for name, child in (below or {}).items():
        yield from leaves(child, *path, name)


OF_OTHERS = {"--break-system-packages", "--help"}  # options of other programs, which messages may name


def test_messages_name_options_that_exist() -> None:
    known = {o for _, command in leaves(typer.main.get_command(app)) for p in command.params for o in p.opts}
    programs = [path for room in ("derive", "codegen", "verify") for path in (ROOT / room).rglob("*.py")]
    named: dict[str, str] = {}
    for path in programs:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known |= {str(w) for w in map(first_word, ast.walk(tree)) if w and str(w).startswith("--")}
        for raised in (node for node in ast.walk(tree) if isinstance(node, ast.Raise)):
            words = [n.value for n in ast.walk(raised) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            named |= {option: path.name for word in words for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", word)}
    assert {option: file for option, file in named.items() if option not in known | OF_OTHERS} == {}
    assert len(named) > 10


def first_word(node: ast.AST) -> object:
    """The option that a call of ``add_argument`` declares, as in programs besides ``affdiv``."""
    declares = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument") and node.args
    return node.args[0].value if declares and isinstance(node.args[0], ast.Constant) else None


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full here")
@pytest.mark.parametrize("command", ["language", "--help", "layers --json"])
def test_a_full_disk_is_one_message(root: Path, command: str) -> None:
    with open("/dev/full", "w") as full:
        line = [sys.executable, str(root / "affdiv.py"), *command.split()]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: the output cannot be written: No space left on device; free some space, or send it elsewhere\n"
    )


def test_a_package_that_is_not_there_is_not_compared(affdiv_here: Affdiv, tmp_path: Path) -> None:
    assert_one_message(affdiv_here("generate", "--check", "--out", str(tmp_path)), "no package at", "--out")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(affdiv_here: Affdiv, command: str) -> None:
    done = affdiv_here(command, "--help")
    assert done.returncode == 0
    assert f"affdiv {command}" in done.stdout


def test_help_is_quick(affdiv: Affdiv) -> None:
    def seconds(run: Callable[[], object]) -> float:
        # Processor time of the child, which a busy machine hardly changes.
        start = sum(os.times()[2:4])
        run()
        return sum(os.times()[2:4]) - start

    def libraries() -> None:
        subprocess.run([sys.executable, "-c", "import typer, rich.console"], check=True)

    pairs = [(seconds(lambda: affdiv("--help")), seconds(libraries)) for _ in range(5)]
    assert min(own for own, _ in pairs) < HELP_COST * min(other for _, other in pairs)


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
def test_unknown_layer_names_the_known_ones(affdiv_here: Affdiv, command: str) -> None:
    assert_one_message(affdiv_here(command, "afine"), "afine", "affine")


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
