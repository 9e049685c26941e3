"""Print results on standard output, as tables or as JSON."""

from __future__ import annotations

import json
import math
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
_PIPE_WIDTH = 200
_FEW = 60  # up to this many checks are listed one by one


def print_json(value: dict[str, Any]) -> None:
    """Print plain data as JSON; ValueError for NaN or infinity, which would be a bug."""
    typer.echo(json.dumps(value, indent=1, allow_nan=False))


def print_stages(result: RunResult) -> None:
    """Print the stages of a run and the path of the report."""
    table = _table("Stage", "", "Result", "Time")
    for stage in result.stages:
        status = Status.PASS if stage.ok else Status.FAIL
        table.add_row(stage.name, _status(status), Text(stage.result), Text(duration(stage.seconds)))
    total = sum(stage.seconds for stage in result.stages)
    table.add_section()
    table.add_row("total", "", f"seed {result.seed}", duration(total))
    _console().print(table)


def print_checks(checks: list[Check], setting: Setting) -> None:
    """Print a row for each layer, family, backend and dtype, or for each check if there are few; then failures.

    Residuals of factors that do not cancel are listed separately. Each failure includes the command that repeats it.
    """
    console = _console()
    table = _each(checks) if len(checks) <= _FEW else _grouped(checks)
    console.print(table)
    _print_residuals(console, checks)
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


def _each(checks: list[Check]) -> Table:
    table = _table("Check", "", "Measured", "Bound", "Device")
    for check in checks:
        table.add_row(*_row(check))
    return table


def _grouped(checks: list[Check]) -> Table:
    """Return the counts of each group, and the check with the largest measured number relative to its bound."""
    table = _table("Layer", "Family", "Computed by", "Type", "Passed", "", "Worst", "Bound", "Of")
    groups: dict[tuple[str, str, str, str], list[Check]] = {}
    for check in checks:
        groups.setdefault((check.layer, check.family, check.backend, check.dtype), []).append(check)
    for key, own in groups.items():
        counts = count(own)
        status = Status.FAIL if counts["fail"] else Status.PASS if counts["pass"] else Status.SKIPPED
        worst = max((check for check in own if check.bound), key=_ratio, default=None)
        figures = ("", "", "") if worst is None else (*_numbers(worst), worst.id.split("/", 1)[1])
        table.add_row(*key, f"{counts['pass']} of {len(own)}", _status(status), *figures)
    return table


def _ratio(check: Check) -> float:
    """Return the measured number over its bound; infinite for a failure without a number."""
    if check.measured is None or not check.bound:
        return math.inf if check.status is Status.FAIL else 0.0
    return math.inf if math.isnan(check.measured) else check.measured / check.bound


def _numbers(check: Check) -> tuple[str, str]:
    measured = "" if check.measured is None else number(check.measured, 2)
    return measured, "" if check.bound is None else number(check.bound)


def _row(check: Check) -> Iterable[Text | str]:
    return check.id, _status(check.status), *_numbers(check), check.device


def _print_residuals(console: Console, checks: list[Check]) -> None:
    """Print the measured residual of each layer whose self factor does not cancel."""
    for check in checks:
        if check.is_residual and check.status is Status.PASS:
            console.print(Text(f"residual of {check.equation.rsplit('/', 1)[0]}: {check.reason}"), soft_wrap=True)


def _print_skips(console: Console, checks: list[Check]) -> None:
    """Print each reason for skipping once."""
    for reason in dict.fromkeys(check.reason for check in checks if check.status is Status.SKIPPED):
        console.print(Text(f"skipped: {reason}", style="yellow"), soft_wrap=True)


def _status(status: Status) -> Text:
    return Text(status.value, style=_STYLES[status])


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading in ("Time", "Measured", "Bound", "Worst", "Passed")
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=heading not in ("Result", "Of"), overflow="fold"
        )
    return table


def _console() -> Console:
    """Return standard output, wide if it is a file or a pipe, so that nothing is cut off."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)
