"""Results as tables for a person and as JSON for a program, on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify.checks.record import Check, Setting, Status, count
from verify.report.numbers import duration, number
from verify.run.record import RunResult

_STYLES = {Status.PASS: "green", Status.FAIL: "bold red", Status.SKIPPED: "yellow"}
_PIPE_WIDTH = 160


def print_json(value: dict[str, Any]) -> None:
    """Print plain data as JSON; a number that JSON cannot hold is a defect, not an output."""
    typer.echo(json.dumps(value, indent=1, allow_nan=False))


def print_stages(result: RunResult) -> None:
    """Print the stages of a run and where the report is."""
    table = _table("Stage", "", "Result", "Time")
    for stage in result.stages:
        status = Status.PASS if stage.ok else Status.FAIL
        table.add_row(stage.name, _status(status), Text(stage.result), Text(duration(stage.seconds)))
    total = sum(stage.seconds for stage in result.stages)
    table.add_section()
    table.add_row("total", "", f"seed {result.seed}", duration(total))
    _console().print(table)


def print_checks(checks: list[Check], setting: Setting) -> None:
    """Print every check but the derivation steps that held, which are counted; then every failure with its command."""
    table = _table("Check", "", "Measured", "Bound", "Device")
    proved = [check for check in checks if check.family == "derivation" and check.status is Status.PASS]
    for layer in dict.fromkeys(check.layer for check in proved):
        steps = sum(check.layer == layer for check in proved)
        table.add_row(f"derivation/{layer}: {steps} steps", _status(Status.PASS), "", "", "none")
    for check in checks:
        if check not in proved:
            table.add_row(*_row(check))
    console = _console()
    console.print(table)
    _print_skips(console, checks)
    for check in checks:
        if check.status is Status.FAIL:
            console.print(
                Text(f"failed: {check.id} (equation {check.equation}): {check.reason}", style="bold red"),
                soft_wrap=True,
            )
            console.print(Text(f"  repeat: {check.reproduce}"), soft_wrap=True)
    counts = count(checks)
    console.print(f"{counts['pass']} passed, {counts['fail']} failed, {counts['skipped']} skipped; seed {setting.seed}")


def _row(check: Check) -> Iterable[Text | str]:
    measured = "" if check.measured is None else number(check.measured, 2)
    bound = "" if check.bound is None else number(check.bound)
    return check.id, _status(check.status), measured, bound, check.device


def _print_skips(console: Console, checks: list[Check]) -> None:
    """Say each reason for skipping once."""
    for reason in dict.fromkeys(check.reason for check in checks if check.status is Status.SKIPPED):
        console.print(Text(f"skipped: {reason}", style="yellow"), soft_wrap=True)


def _status(status: Status) -> Text:
    return Text(status.value, style=_STYLES[status])


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading in ("Time", "Measured", "Bound")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "Result")
    return table


def _console() -> Console:
    """Return standard output, wide where it is a file or a pipe, so that nothing is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)
