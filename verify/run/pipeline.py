"""The chain, stage by stage; each stage is one function from earlier results to its own.

    derive      layer name -> Derivation, every step checked
    solve       layer -> cancelling maps, every step checked, residual 0
    generate    maps -> comparison of the generated package with the maps, byte for byte
    verify      layers -> checks of the derivations and of the generated modules
    train       plan -> trials on digits, with self factors measured during training
    report      all results -> report.html and results.json

If a stage fails, its result says so and the chain continues, so that the report shows everything.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

import affine_divergence
import derive
from codegen.compiler import build
from codegen.package import MANIFEST, differences
from codegen.targets.base import KERNELS
from derive.check import checked_map
from derive.export.files import write_text
from derive.export.symbols import notation_for
from derive.export.text import text
from derive.record import CancellingMap, Derivation, Status, Step
from verify.checks.record import Check, Setting, count
from verify.checks.runner import run_checks, tasks_for
from verify.files import make_folder
from verify.report.numbers import factor, number
from verify.report.page import method_row, render
from verify.run.progress import Watcher
from verify.run.record import RunResult, Stage
from verify.training.sweep import Plan, SweepResult, run_sweep

LAYER = "affine"
LAYERS = (LAYER, "linear")
ON_DEVICES = tuple(target.name for target in KERNELS if target.device == "cuda")
PACKAGE = Path(affine_divergence.__file__).parent
REPORT, RESULTS = "report.html", "results.json"
SELF_FACTOR_BOUND = 1e-12
T = TypeVar("T")


class Chain:
    """The stages that have run, with their times."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.stages: list[Stage] = []

    def run(self, name: str, work: Callable[[], T], judge: Callable[[T], tuple[bool, str]]) -> T:
        """Run one stage, judge its result, and return it."""
        self.watcher.begin(name)
        start = time.perf_counter()
        value = work()
        ok, result = judge(value)
        self.stages.append(Stage(name, result, ok, time.perf_counter() - start))
        return value


def run_chain(plan: Plan, folder: Path, watcher: Watcher) -> RunResult:
    """Run every stage and write the report into the folder; return the result, including the report stage."""
    chain = Chain(watcher)
    seed = plan.base.seed
    layer = derive.layer(LAYER)
    derivation = chain.run("derive", lambda: derive.effective_update(layer).check(), judge_derivation)
    derivation = chain.run("solve", lambda: solved(derivation), judge_maps)
    chain.run("generate --check", lambda: differences(build(), PACKAGE), judge_package)
    checks = chain.run("verify", lambda: verify(seed, watcher), judge_checks)
    sweep = chain.run("train", lambda: run_sweep(plan, watcher.advance), judge_training)
    result = RunResult(
        seed=seed,
        stages=tuple(chain.stages),
        derivation=derivation,
        checks=tuple(checks),
        sweep=sweep,
        environment=environment(),
        package=json.loads((PACKAGE / MANIFEST).read_text(encoding="utf-8")),
    )
    chain.run("report", lambda: write(result, folder), lambda path: (True, str(path)))
    return RunResult(**{**vars(result), "stages": tuple(chain.stages)})


def solved(derivation: Derivation) -> Derivation:
    """Return the derivation with its layer's cancelling maps, all of whose steps are checked."""
    found = derive.solve(derivation.layer)
    return replace(derivation, solutions=tuple(checked_map(m) for m in found.maps), refusals=tuple(found.refusals))


def verify(seed: int, watcher: Watcher) -> list[Check]:
    """Run the checks of the chain's layers, without those of kernels, for which `affdiv verify` starts a process."""
    tasks = [task for task in tasks_for(LAYERS) if task.backend not in ON_DEVICES]
    return run_checks(tasks, Setting(seed=seed), lambda _, done, total: watcher.advance(done, total))


def write(result: RunResult, folder: Path) -> Path:
    """Write the report and the results; return the path of the report."""
    results, page = json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n", render(result)
    make_folder(folder)
    write_text(folder / RESULTS, results)
    write_text(folder / REPORT, page)
    return folder / REPORT


def judge_derivation(derivation: Derivation) -> tuple[bool, str]:
    """Return whether every step was checked and holds, with a description."""
    ok, said = _steps(derivation.steps)
    factor_text = text(derivation.self_factor.expression, notation_for(derivation.layer).hints)
    return ok, f"{said}; self factor {factor_text}"


def judge_maps(derivation: Derivation) -> tuple[bool, str]:
    """Return whether there are maps, each with residual 0 and with steps that all hold, and a description."""
    maps: tuple[CancellingMap, ...] = derivation.solutions
    ok, said = _steps([step for found in maps for step in found.steps])
    names = ", ".join(f"{found.name} (residual {text(found.residual)})" for found in maps)
    return ok and bool(maps) and all(found.residual == 0 for found in maps), f"{names}; {said}"


def judge_package(found: list[str]) -> tuple[bool, str]:
    """Return whether the generated package matches its derivations, and a description; ``found`` are differences."""
    if not found:
        return True, f"{PACKAGE.name} matches its derivations, byte for byte"
    return False, f"{PACKAGE} differs from its derivations ({found[0]}); run `affdiv generate` to write it again"


def judge_checks(checks: list[Check]) -> tuple[bool, str]:
    """Return whether no check failed, with the counts."""
    counts = count(checks)
    failed = [check.id for check in checks if check.status.value == "fail"]
    named = f": {', '.join(failed[:3])}{' …' if len(failed) > 3 else ''}" if failed else ""
    return not failed, f"{counts['pass']} passed, {counts['fail']} failed, {counts['skipped']} skipped{named}"


def judge_training(sweep: SweepResult) -> tuple[bool, str]:
    """Return whether each generated layer's self factor stayed equal for all samples and steps, up to rounding."""
    trials = [*sweep.tuning, *sweep.final]
    diverged = sum(result.diverged_at is not None for result in trials)
    rows = {method: method_row(sweep, method) for method in sweep.plan.methods}
    ours = [row for method, row in rows.items() if method in ("affine-like", "norm-like")]
    worst = max(row.high / row.low - 1 for row in ours)
    ok = worst <= SELF_FACTOR_BOUND
    spread = ", ".join(
        f"{method} {factor(row.ratio)}" for method, row in rows.items() if method in ("none", "affine-like")
    )
    bound = "" if ok else f", beyond the bound of {number(SELF_FACTOR_BOUND)}"
    return ok, f"{len(trials)} trials, {diverged} diverged; largest / smallest self factor: {spread}{bound}"


def environment() -> dict[str, str]:
    """Return the versions and the machine, on which a run's numbers may depend."""
    return {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _steps(steps: list[Step] | tuple[Step, ...]) -> tuple[bool, str]:
    counts = {status: sum(step.verdict.status is status for step in steps) for status in Status}
    said = ", ".join(f"{number} {status.value}" for status, number in counts.items() if number)
    good = counts[Status.PROVED] + counts[Status.SAMPLED] == len(steps) > 0
    return good, f"{len(steps)} steps: {said}"
