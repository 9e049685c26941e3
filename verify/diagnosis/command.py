"""The implementation of ``affdiv diagnose``: build the model, diagnose it, and with --convert its conversion too."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import affine_divergence as ad
from codegen.capture.loading import load
from derive.errors import UsageError
from derive.export.files import write_text
from verify.diagnosis.factory import made
from verify.diagnosis.loggers import summary_writer, write_scalars
from verify.diagnosis.measure import diagnose
from verify.diagnosis.optimizer import Optimizer
from verify.diagnosis.record import Diagnosis
from verify.diagnosis.show import print_diagnosis
from verify.files import check_folder, make_folder
from verify.run.table import print_json


@dataclass(frozen=True)
class Request:
    """The options of the command line."""

    factory: str
    steps: int = 1
    rate: float = 0.01
    optimizer: str = ""
    clip_norm: float | None = None
    seed: int = 0
    convert: bool = False
    html: Path | None = None
    tensorboard: Path | None = None


def run_diagnosis(request: Request, *, json: bool) -> bool:
    """Diagnose the factory's model and print the result; return whether it passed (the exit code).

    Raises UsageError for unusable options, an unusable factory or an unusable model.
    """
    if request.html is not None:
        check_folder(request.html.parent, (request.html.name,), "--html")
    if request.tensorboard is not None:
        check_folder(request.tensorboard, (), "--tensorboard")
        summary_writer(request.tensorboard)
    with contextlib.redirect_stdout(sys.stderr):  # keeps the user's prints out of the result
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
    """Return the diagnosis of the factory's model, and that of its conversion (None without --convert)."""
    factory = load(request.factory)
    torch.manual_seed(request.seed)
    model, batch, loss, own = made(factory, request.factory)

    def _of(net: nn.Module, optimizer: Optimizer) -> Diagnosis:
        def _clip() -> None:
            nn.utils.clip_grad_norm_(net.parameters(), request.clip_norm or 0.0)

        return diagnose(
            net,
            batch,
            loss,
            steps=request.steps,
            rate=request.rate,
            optimizer=optimizer,
            before_step=None if request.clip_norm is None else _clip,
        )

    named = _named_optimizer(request)
    found = _of(model, named or own)
    if not request.convert:
        return found, None
    twin = converted(model)
    return found, _of(twin, named or _same_for(own))


def _named_optimizer(request: Request) -> Optimizer:
    """Return a constructor of the named optimiser, None if none is named; raise UsageError for an unknown name."""
    if not request.optimizer:
        return None
    known = {name.lower(): kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    known = {name: kind for name, kind in known.items() if issubclass(kind, torch.optim.Optimizer)}
    known.pop("optimizer", None)
    if request.optimizer.lower() not in known:
        raise UsageError(f"no optimizer {request.optimizer!r} in torch.optim; known: {', '.join(sorted(known))}")
    return functools.partial(known[request.optimizer.lower()], lr=request.rate)


def _same_for(optimizer: torch.optim.Optimizer | None) -> Optimizer:
    """Return a constructor of the same optimiser, with the same settings but no state, for another model."""
    if optimizer is None:
        return None
    settings = inspect.signature(type(optimizer)).parameters.keys() & optimizer.defaults.keys()
    return functools.partial(type(optimizer), **{name: optimizer.defaults[name] for name in settings})


def _write(request: Request, found: Diagnosis, after: Diagnosis | None) -> None:
    """Write the requested page and scalars."""
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
    """Return a copy of a model with every replaceable layer replaced; raise UsageError if there is none."""
    try:
        twin = copy.deepcopy(model)
    except (RuntimeError, TypeError) as problem:
        raise UsageError(f"the model cannot be copied for --convert: {problem}; leave --convert out") from problem
    report = ad.convert(twin, without_bias="norm-like")
    if not report.replaced:
        raise UsageError(f"--convert finds no layer to replace in this {type(model).__name__}; leave it out")
    return twin


def to_json(found: Diagnosis, after: Diagnosis | None) -> dict[str, Any]:
    """Return the diagnosis, with that of the converted model (or None) under ``converted``."""
    return {**found.to_json(), "converted": after.to_json() if after else None}
