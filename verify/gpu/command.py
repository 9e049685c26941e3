"""``python -m verify.gpu``: read the command line, run the stages, write and print the summary."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from derive.errors import UsageError
from verify.files import check_folder, make_folder
from verify.gpu.part import Setting, Stage
from verify.gpu.run import Progress, run_stages
from verify.gpu.stage_file import StageFile, origin
from verify.gpu.stages import STAGES
from verify.gpu.summary import FILE, lines, summary, write_summary
from verify.run.progress import watching

_GOOD, _FAILED, _WRONG_USAGE, _INTERRUPTED = 0, 1, 2, 130
_MOST_WORKERS = 14  # most of the kernels' time is spent compiling, on one core each
_EXAMPLES = """examples:
  python -m verify.gpu -o paper_notes/results/gpu
  python -m verify.gpu -o results --data ../cifar10 --minutes 9
  python -m verify.gpu -o dry --device cpu --stages kernels,memory
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return 0 if every part passed or was skipped, 1 if not, 2 for invalid usage."""
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except UsageError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return _WRONG_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verify.gpu",
        description="Run every test and measurement that needs a GPU; the same command continues an interrupted run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for summary.json and one JSON file per stage",
    )
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run at small sizes, without a GPU")
    add("--minutes", type=_minutes, default=9.0, help="time limit of the whole run (default 9)")
    names = ",".join(stage.name for stage in STAGES)
    add("--stages", type=_stages, default=STAGES, metavar="NAME,..", help=f"some of {names}; default: all")
    add("--data", type=Path, metavar="FOLDER", help="images to train on; default: scikit-learn's digits")
    add(
        "--workers", type=_workers, help="processes for parts that may run in parallel; default: by the number of cores"
    )
    add("--retry", action="store_true", help="measure failed parts again")
    add("--json", action="store_true", help="print the summary as JSON on standard output")
    return parser


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 24 * 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0 and at most 1440")
    return minutes


def _workers(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes from 1 to 64")
    return number


def _stages(text: str) -> tuple[Stage, ...]:
    known = {stage.name: stage for stage in STAGES}
    names = text.replace(" ", "").split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not a stage; choose from {', '.join(known)}")
    return tuple(stage for stage in STAGES if stage.name in names)


def _run(given: argparse.Namespace) -> int:
    start = time.monotonic()
    setting = _setting(given)
    made = origin(setting)
    files = [StageFile(stage, setting, made, given.retry) for stage in given.stages]
    make_folder(given.out, "-o")
    signal.signal(signal.SIGTERM, _interrupt)
    workers, until = given.workers or _cores(), start + 60 * given.minutes

    def closed(file: StageFile | None = None) -> dict[str, Any]:
        """Write the current summary, so that it exists however the program ends."""
        if file is not None and not sys.stderr.isatty():
            print(f"{file.stage.name}: {len(file.left)} left after {file.seconds:.0f} s", file=sys.stderr, flush=True)
        found = summary(files, setting, made, time.monotonic() - start)
        write_summary(found, setting)
        return found

    code = _GOOD
    try:
        with watching() as watcher:
            run_stages(files, setting, workers, until, _told(watcher.report), closed)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    found = closed()
    _print(found, Path(setting.folder) / FILE, given.json)
    return code or (_GOOD if found["ok"] else _FAILED)


def _setting(given: argparse.Namespace) -> Setting:
    """Return the setting; UsageError for a missing device, folder or data."""
    if given.device == "cuda":
        import torch

        from verify.checks.runner import NO_CUDA

        if not torch.cuda.is_available():
            raise UsageError(f"{NO_CUDA}; use --device cpu for a dry run at small sizes")
    check_folder(given.out, (FILE, *(f"{stage.name}.json" for stage in given.stages)), "-o")
    if given.data is not None and not given.data.is_dir():
        raise UsageError(f"--data {str(given.data)!r} is not a folder; name a folder of images, or leave --data out")
    data = None if given.data is None else str(given.data.absolute())
    return Setting(given.device, str(given.out.absolute()), data)


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_WORKERS, max(2, cores - 2))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _told(report: Any) -> Progress:
    """Return the progress callback: a live line on a terminal, otherwise one line per stage."""
    begun: set[str] = set()

    def progress(stage: str, done: int, total: int) -> None:
        report(stage, done / max(1, total))
        if stage not in begun and not sys.stderr.isatty():
            print(f"{stage}: {total - done} parts", file=sys.stderr, flush=True)
        begun.add(stage)

    return progress


def _print(found: dict[str, Any], path: Path, as_json: bool) -> None:
    if as_json:
        from verify.run.table import print_json

        print_json(found)
        return
    for line in lines(found):
        print(line)
    print(f"written: {path}")
