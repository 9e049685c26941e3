"""The section on speed: both passes of each layer as multiples of torch's, from the results of ``affdiv bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from derive.export.blocks import Block, Code, Figures, Heading, Items, Paragraph, Prose, Table, prose
from verify.bench.speed_note import Run, circumstances, latest, ratio, threads
from verify.paper.figures import Files, speed_figure


def speed_blocks(speed: Mapping[str, Sequence[Run]], files: Files) -> list[Block]:
    """Return the section on speed; its figure goes into ``files``."""
    blocks: list[Block] = [Heading(1, ("Speed",))]
    if not speed:
        return [*blocks, Paragraph(("The results folder contains no speed measurements.",))]
    blocks.append(
        Paragraph(
            prose(
                "Time of the forward and the backward pass as a multiple of torch's layer at the same shape, measured "
                "round by round in one process by {}: median and quartiles over rounds, then the ratio of the least "
                "times. The last column is the memory saved for the backward pass.",
                Code("affdiv bench"),
            )
        )
    )
    for name, runs in speed.items():
        blocks += _file(name, latest(runs), files)
    return blocks


def _file(name: str, runs: Sequence[Run], files: Files) -> list[Block]:
    blocks: list[Block] = [Heading(2, (name,)), Items(tuple((circumstances(run),) for run in runs))]
    for run in runs:
        stem = f"{name.removesuffix('.json')}-{run['circumstances']['device']['threads']}"
        caption = f"Both passes over torch's layer, {threads(run)}; whiskers: quartiles. Ours are dark."
        blocks.append(Figures(((files.add(stem, speed_figure(run)), (caption,)),), across=1))
    for shape in dict.fromkeys(row["shape"] for run in runs for row in run["rows"]):
        blocks.append(_table(shape, runs))
    return blocks


def _table(shape: str, runs: Sequence[Run]) -> Table:
    columns = [threads(run) for run in runs]
    known = {(threads(run), row["provider"]): row for run in runs for row in run["rows"] if row["shape"] == shape}
    header = ((shape,), *((column,) for column in columns), ("saved, MiB",))
    rows: list[tuple[Prose, ...]] = []
    for provider in dict.fromkeys(name for _, name in known):
        own = [known.get((column, provider)) for column in columns]
        saved = next(row for row in own if row)["saved_bytes"] / 2**20
        rows.append(((provider,), *((ratio(row),) for row in own), (f"{saved:.2f}",)))
    return Table(header, tuple(rows), (0.26, *(0.54 / len(columns),) * len(columns), 0.1))
