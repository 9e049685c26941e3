"""The command line: the commands of derive, codegen and verify in one program.

Each package's ``cli.register`` adds its commands; a command imports what it needs when it runs, so that ``--help`` is
fast. Exit codes: 0 success, 1 a check failed, 2 wrong usage, 130 interrupted, 141 the reader of a pipe closed it.

Not done here: the work of any command. Its package decides what it prints and returns.
"""

from __future__ import annotations

import errno
import gc
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

import codegen.cli
import derive.cli
import verify.cli
from derive.errors import UsageError, printable
from derive.export.encodings import write_any
from derive.versions import __version__

WRONG_USAGE, PIPE_CLOSED = 2, 141
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
EXAMPLES = (
    "affdiv run",
    "affdiv derive affine",
    "affdiv solve affine --json",
    "affdiv generate --check",
)
GREETING = """\
affdiv derives what a step of gradient descent does to a layer's activations, and writes layers that correct it.

Three commands to begin with:

  affdiv solve affine    the maps that cancel the divergence of z = W x + b, and what each map keeps
  affdiv language        how to write a layer of your own, on one page
  affdiv run             the whole chain with a report, a minute on two cores

`affdiv --help` lists every command."""

app = typer.Typer(
    name="affdiv",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\n\n".join(("Examples:", *EXAMPLES)),
)


def _show_version(wanted: bool) -> None:
    """Print the version and stop, if requested."""
    if wanted:
        typer.echo(f"affdiv {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From a layer's forward map to its effective activation update, the maps that cancel its divergence, and code."""


def _reflowed(command: Callable[..., object] | None) -> str:
    """Return a command's docstring with each paragraph on one line: the terminal breaks lines, not the source."""
    return "\n\n".join(" ".join(part.split()) for part in (inspect.getdoc(command) or "").split("\n\n"))


def _mount() -> None:
    """Add the commands; those of a package share one panel of the help, unless a command names its own."""
    packages = (("The chain and its checks", verify.cli), ("Mathematics", derive.cli), ("Code", codegen.cli))
    for panel, package in packages:
        commands, groups = len(app.registered_commands), len(app.registered_groups)
        package.register(app)
        for command in app.registered_commands[commands:]:
            command.rich_help_panel = command.rich_help_panel or panel
        for group in app.registered_groups[groups:]:
            group.rich_help_panel = panel
            for command in group.typer_instance.registered_commands if group.typer_instance else ():
                command.help = _reflowed(command.callback)
        for command in app.registered_commands[commands:]:
            command.help = _reflowed(command.callback)


_mount()


def _fail(message: str, code: int = WRONG_USAGE) -> int:
    """Print ``error: message`` on standard error and return the exit code."""
    print(f"error: {printable(message)}", file=sys.stderr)
    return code


def _wrong_words(problem: typer.TyperException) -> int:
    """Report a usage error, and the command that prints help."""
    message, context = problem.format_message() + _given(problem), getattr(problem, "ctx", None)
    ending = "" if message.endswith((".", "?")) else "."
    hint = f" See `{context.command_path} --help`." if context else ""
    return _fail(f"{message}{ending}{hint}", problem.exit_code)


def _given(problem: typer.TyperException) -> str:
    """Return the value that failed a range or choice check, which Typer's message leaves out."""
    rules = getattr(problem.__cause__, "errors", None)
    return f", given {rules()[0]['input']!r}" if callable(rules) else ""


def _reader_left() -> int:
    """Redirect standard output to the null device, so that the flush at exit does not fail on the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return PIPE_CLOSED


def _unusable_file(problem: OSError) -> int:
    """Report the file and the operating system's reason; re-raise any other failure, which is a defect.

    A failed write to standard output names no file.
    """
    if problem.filename is None and problem.errno in _NO_ROOM:
        _reader_left()
        return _fail(f"the output cannot be written: {problem.strerror}; free some space, or send it elsewhere")
    if problem.filename is None:
        raise problem
    return _fail(f"{problem.filename}: {problem.strerror}; choose a path that exists and that you may read or write")


def run(arguments: list[str]) -> int:
    """Run the command line on ``arguments`` and return the exit code; without arguments, print the greeting.

    No error that a user can cause leaves this function as an exception; a defect does, with its traceback.
    """
    write_any(sys.stdout, sys.stderr)
    try:
        if not arguments:
            print(GREETING)
        result = app(arguments, prog_name="affdiv", standalone_mode=False) if arguments else 0
        sys.stdout.flush()
    except UsageError as problem:
        return _fail(str(problem))
    except typer.TyperException as problem:
        return _wrong_words(problem)
    except BrokenPipeError:
        return _reader_left()
    except OSError as problem:
        return _unusable_file(problem)
    except SystemExit as stop:  # Typer's own answer to a closed pipe is code 1, which here means a failed check
        if isinstance(stop.__context__, BrokenPipeError):
            return _reader_left()
        raise
    return result if isinstance(result, int) else 0


def _remember_more() -> None:
    """Enlarge SymPy's cache and collect garbage less often: together they save a sixth of a derivation's time.

    The process ends with its command, so memory suffices. SymPy reads the cache size when a command imports it.
    """
    os.environ.setdefault("SYMPY_CACHE_SIZE", "200000")
    gc.set_threshold(20_000, 20, 50)


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    _remember_more()
    code = run(sys.argv[1:])
    gc.freeze()  # else the collection at exit takes half a second after a long derivation
    sys.exit(code)


if __name__ == "__main__":
    main()
