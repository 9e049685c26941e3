"""The work of ``affdiv diagnose``: make the model, diagnose it, and once more after conversion if asked for."""

from __future__ import annotations

import contextlib
import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import affine_divergence as ad
from derive.errors import UsageError
from derive.export.files import write_text
from verify.diagnosis.factory import load, made
from verify.diagnosis.loggers import summary_writer, write_scalars
from verify.diagnosis.measure import diagnose
from verify.diagnosis.record import Diagnosis
from verify.diagnosis.show import print_diagnosis
from verify.files import check_folder, make_folder
from verify.run.table import print_json


@dataclass(frozen=True)
class Request:
    """What is asked for on the command line."""

    factory: str
    steps: int = 1
    rate: float = 0.01
    seed: int = 0
    convert: bool = False
    html: Path | None = None
    tensorboard: Path | None = None


def run_diagnosis(request: Request, *, json: bool) -> bool:
    """Diagnose what the factory makes and print it; return whether every checked step was the derived one.

    Raises UsageError for words, a factory or a model that cannot be used.
    """
    if request.html is not None:
        check_folder(request.html.parent, (request.html.name,), "--html")
    if request.tensorboard is not None:
        check_folder(request.tensorboard, (), "--tensorboard")
        summary_writer(request.tensorboard)
    with contextlib.redirect_stdout(sys.stderr):  # what the user's code prints is no part of the result
        found, after = _diagnosed(request)
    _write(request, found, after)
    if json:
        print_json(to_json(found, after))
    else:
        print_diagnosis(found)
        if after:
            print_diagnosis(after, "\nAfter affine_divergence.convert(model, without_bias='norm-like')")
    return found.ok and (after is None or after.ok)


def _diagnosed(request: Request) -> tuple[Diagnosis, Diagnosis | None]:
    """Return the diagnosis of what the factory makes, and that of its conversion, None if it was not asked for."""
    factory = load(request.factory)
    torch.manual_seed(request.seed)
    model, batch, loss = made(factory, request.factory)
    found = diagnose(model, batch, loss, steps=request.steps, rate=request.rate)
    if not request.convert:
        return found, None
    return found, diagnose(converted(model), batch, loss, steps=request.steps, rate=request.rate)


def _write(request: Request, found: Diagnosis, after: Diagnosis | None) -> None:
    """Write the page and the scalars that were asked for."""
    if request.html is not None:
        from verify.report.diagnosis import render

        page = render(found, after)
        make_folder(request.html.parent, "--html")
        write_text(request.html, page)
    if request.tensorboard is not None:
        write_scalars(found, request.tensorboard / "before" if after else request.tensorboard)
        if after:
            write_scalars(after, request.tensorboard / "after")


def converted(model: nn.Module) -> nn.Module:
    """Return a copy of a model in which every layer that can be is replaced; raise UsageError if none can."""
    try:
        twin = copy.deepcopy(model)
    except (RuntimeError, TypeError) as problem:
        raise UsageError(f"the model cannot be copied for --convert: {problem}; leave --convert out") from problem
    report = ad.convert(twin, without_bias="norm-like")
    if not report.replaced:
        raise UsageError(f"--convert finds no layer to replace in this {type(model).__name__}; leave it out")
    return twin


def to_json(found: Diagnosis, after: Diagnosis | None) -> dict[str, Any]:
    """Return the diagnosis, and under ``converted`` that of the converted model, None if it was not asked for."""
    return {**found.to_json(), "converted": after.to_json() if after else None}
