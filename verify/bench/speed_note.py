"""Write the figures of ``affdiv bench`` into a document: between two marks, from the results file, never by hand.

    affdiv bench --threads 1,2 --seconds 12 -o paper_notes/results/speed-cpu.json     about five minutes
    python -m verify.bench.speed_note paper_notes/results/speed-cpu.json paper_notes/performance.md

The last run for each number of threads is used. Results of ``affdiv bench --suite`` have marks of their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from derive.errors import UsageError
from derive.export.files import write_text
from verify.bench.against import Ratio
from verify.bench.suite import SCHEMA as SUITE
from verify.bench.suite_table import interval, share

BEGIN, END = "<!-- figures of affdiv bench: begin -->", "<!-- figures of affdiv bench: end -->"
SUITE_BEGIN, SUITE_END = (mark.replace("affdiv bench", "affdiv bench --suite") for mark in (BEGIN, END))
Run = Mapping[str, Any]


def latest(runs: Sequence[Run]) -> list[Run]:
    """Return the last run for each number of threads, in increasing order of threads."""
    found = {run["circumstances"]["device"]["threads"]: run for run in runs}
    return [found[count] for count in sorted(found)]


def figures(runs: Sequence[Run]) -> str:
    """Return the circumstances of the latest runs and a Markdown table for each shape."""
    chosen = latest(runs)
    parts = [f"* {circumstances(run)}" for run in chosen]
    for shape in dict.fromkeys(row["shape"] for run in chosen for row in run["rows"]):
        parts.append(_table(shape, chosen))
    return "\n\n".join(parts)


def circumstances(run: Run) -> str:
    """Return the machine of a run and the peak rates measured on it."""
    where = run["circumstances"]
    device, limits = where["device"], run["limits"]
    best = f"copy {limits['copy_bytes'] / 1e9:.1f} GB/s, product {limits['product_operations'] / 1e9:.0f} GFLOP/s"
    return (
        f"{threads(run)}: commit {where['commit']}, torch {where['versions']['torch']}, {device['cores']} cores, "
        f"load average {device['load_average'][0]:.1f} at the end; best of the run: {best}."
    )


def _table(shape: str, runs: Sequence[Run]) -> str:
    """Return the table of both passes over torch's layer: median over rounds, quartiles, ratio of least times."""
    known = {(threads(run), row["provider"]): row for run in runs for row in run["rows"] if row["shape"] == shape}
    columns = [threads(run) for run in runs]
    lines = [f"| {shape} | {' | '.join(f'{c}: median (quartiles), of least' for c in columns)} | saved, MiB |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for provider in dict.fromkeys(name for _, name in known):
        rows = [known.get((column, provider)) for column in columns]
        saved = next(row for row in rows if row)["saved_bytes"] / 2**20
        lines.append(f"| {provider} | {' | '.join(map(ratio, rows))} | {saved:.2f} |")
    return "\n".join(lines)


def ratio(row: Run | None) -> str:
    """Return the time of both passes of a row as a multiple of torch's layer."""
    if row is None:
        return "not measured"
    both = row["ratio"]["both"]
    quartiles = f"{both['lower']:.2f} to {both['upper']:.2f}"
    return f"{both['median']:.3f} ({quartiles}), {row['ratio_of_least']['both']:.3f}"


def threads(run: Run) -> str:
    """Return the number of threads of a run, in words."""
    count = run["circumstances"]["device"]["threads"]
    return f"{count} thread{'s' if count > 1 else ''}"


def suite_figures(runs: Sequence[Run]) -> str:
    """Return the circumstances of the latest runs of a suite and a Markdown table with one line per case."""
    chosen = latest(runs)
    lines = [f"* {circumstances(run)}" for run in chosen]
    columns = [threads(run) for run in chosen]
    head = [f"baseline, ours, {c}" for c in columns] + [f"ours/baseline, {c}" for c in columns]
    lines += ["", f"| case | {' | '.join(head)} | saved | peak |", "|---" * (len(head) + 3) + "|"]
    known = [{(row["case"], row["compiled"]): row for row in run["rows"]} for run in chosen]
    for key in dict.fromkeys(key for rows in known for key in rows):
        lines.append(_suite_line([rows.get(key) for rows in known]))
    return "\n".join(lines)


def _suite_line(rows: Sequence[Run | None]) -> str:
    first = next(row for row in rows if row)
    name = "— compiled" if first["compiled"] else f"{first['case']} ({first['adds']})"
    there = [row if row and row["verdict"] else None for row in rows]
    both = [f"{r['peer']['median']:.2f}, {r['ours']['median']:.2f}" if r else "not measured" for r in there]
    compared = [_compared(r) if r else "not measured" for r in there]
    bytes_ = [share(first[k]) for k in ("saved", "peak")]
    return f"| {' | '.join([name, *both, *compared, *bytes_])} |"


def _compared(row: Run) -> str:
    return f"{interval(Ratio(**row['ours_to_peer']))} {row['verdict']}"


def rewritten(text: str, runs: Sequence[Run]) -> str:
    """Return the text with new figures between its marks; raise UsageError if it lacks the marks."""
    suite = bool(runs) and runs[-1].get("schema") == SUITE
    begin, end = (SUITE_BEGIN, SUITE_END) if suite else (BEGIN, END)
    before, has_begin, rest = text.partition(begin)
    _, has_end, after = rest.partition(end)
    if not has_begin or not has_end:
        raise UsageError(f"the text holds no place for the figures; put {begin!r} and {end!r} on lines of their own")
    return f"{before}{begin}\n{(suite_figures if suite else figures)(runs)}\n{end}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Write the figures of a results file into a document."""
    parser = argparse.ArgumentParser(prog="python -m verify.bench.speed_note", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a file that affdiv bench wrote")
    parser.add_argument("note", type=Path, help="a Markdown file with the two marks")
    given = parser.parse_args(arguments)
    try:
        runs = json.loads(given.results.read_text(encoding="utf-8"))["runs"]
        write_text(given.note, rewritten(given.note.read_text(encoding="utf-8"), runs))
    except (OSError, ValueError, LookupError, TypeError, UsageError) as problem:
        print(f"error: {given.results} into {given.note}: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
