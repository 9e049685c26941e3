"""The record of kernels that were verified on a GPU: what ran, where, and how far it was from float64.

Every file of kernels of the generated package is run, forward and backward, on random tensors of two shapes and every
type that it takes, and compared with torch's operations in float64 at the same rounded inputs. A kernel holds if each
of its results is at most twice as far off as torch's own in the same type. ``affdiv layers`` reads the record.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import affine_divergence
from affine_divergence import functional
from derive.errors import UsageError
from derive.export.kernels import SCHEMA, kernel_digests, recorded_runs
from verify.bench.record import circumstances, write_json
from verify.checks.runner import NO_CUDA
from verify.files import check_folder

_TYPES = (torch.float64, torch.float32, torch.bfloat16)
_SLACK = {torch.float64: 16.0}  # epsilons that an error may have beside torch's own; float64 is its own reference
_LEAST = 0.25  # the same for any other type
_Shapes = Sequence[tuple[int, ...]]
_Call = Callable[[str, list[Tensor]], tuple[Tensor, ...]]


def _rows(function: Callable[..., Tensor], backend: str, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    return (function(*tensors, backend=backend),)


def _patches(function: Callable[..., Tensor], form: str, backend: str, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    bias = tensors[2] if len(tensors) > 2 else None
    return (function(*tensors[:2], bias, stride=2, padding=1, form=form, backend=backend),)


def _units(backend: str, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    home = "_unit" if backend == "torch" else f"_{backend}_unit"
    found = importlib.import_module(f"affine_divergence.{home}").UnitPair.apply(*tensors)
    return found[0], found[2]


_ROW_SHAPES: _Shapes = ((300, 200), (150, 200), (150,))
_PATCH_SHAPES: _Shapes = ((3, 16, 15, 17), (16, 16, 3, 3), (16,))
_UNIT_SHAPES: _Shapes = ((2, 3, 70, 64), (2, 3, 50, 64))
_CASES: dict[str, tuple[_Call, _Shapes]] = {
    "affine_like": (partial(_rows, functional.affine_like), _ROW_SHAPES),
    "norm_like": (partial(_rows, functional.norm_like), _ROW_SHAPES),
    "norm_like_without_bias": (partial(_rows, functional.norm_like), _ROW_SHAPES[:2]),
    "unit": (_units, _UNIT_SHAPES),
    **{
        f"patch_{form.replace('-', '_')}{suffix}{bare}": (
            partial(_patches, function, form),
            _PATCH_SHAPES[:2] if bare else _PATCH_SHAPES,
        )
        for form in ("affine-like", "norm-like")
        for suffix, function in (
            ("", functional.patch_norm_conv2d),
            ("_centred", partial(functional.patch_norm_conv2d, center=True)),
            ("_transposed", functional.patch_norm_conv_transpose2d),
        )
        for bare in ("", "_without_bias")
        if form == "norm-like" or not bare
    },
}


def check_record(path: Path, device: str, package: Path | None) -> None:
    """Raise UsageError unless this machine can add to the record: a GPU, the project's own package, a file to write."""
    if device != "cuda":
        raise UsageError("--record writes down what held on a GPU; add --device cuda")
    if package is not None:
        raise UsageError("--record is of the project's own kernels; leave --package out")
    if not torch.cuda.is_available():
        raise UsageError(f"--record: {NO_CUDA}; run it where there is one")
    check_folder(path.parent, (path.name,), "--record")
    recorded_runs(path)


def measured(device: str, backends: Sequence[str] = ("triton", "cuda")) -> dict[str, dict[str, Any]]:
    """Return, by file of kernels, its digest, its largest error in every type and whether it ``holds``.

    What is not installed is left out, so it stays unverified.
    """
    manifest = Path(str(affine_divergence.__file__)).with_name("manifest.json")
    digests = kernel_digests(json.loads(manifest.read_text(encoding="utf-8"))["files"])
    found = {}
    for file, digest in digests.items():
        backend, _, name = Path(file).stem.lstrip("_").partition("_")
        if backend in backends and name in _CASES and _installed(backend):
            errors = {str(dtype).removeprefix("torch."): _errors(name, backend, dtype, device) for dtype in _TYPES}
            holds = all(ours <= bound for ours, bound in errors.values())
            found[file] = {"digest": digest, "errors": {k: ours for k, (ours, _) in errors.items()}, "holds": holds}
    return found


def _installed(backend: str) -> bool:
    try:
        importlib.import_module({"triton": "triton", "cuda": "cuda.core"}[backend])
    except ImportError:
        return False
    return True


def _errors(name: str, backend: str, dtype: torch.dtype, device: str) -> tuple[float, float]:
    """Return the largest relative error of a kernel's results, and the bound that it must keep."""
    call, shapes = _CASES[name]
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]
    exact = _results(call, "torch", [t.double() for t in tensors])
    plain = _apart(_results(call, "torch", tensors), exact)
    with _marked_memory():
        ours = _apart(_results(call, backend, tensors), exact)
    return ours, 2 * plain + _SLACK.get(dtype, _LEAST) * torch.finfo(dtype).eps


@contextmanager
def _marked_memory() -> Iterator[None]:
    """Have new memory hold NaN: what a kernel leaves unwritten may else hold what was right before."""
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warns)


def _results(call: _Call, backend: str, tensors: list[Tensor]) -> list[Tensor]:
    """Return the outputs and every gradient of a fixed function of them."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    outputs = call(backend, leaves)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(z.shape, generator=generator, dtype=torch.float64).to(tensors[0]) for z in outputs]
    cotangents = [g.to(torch.bfloat16).to(g.dtype) for g in cotangents]  # the same numbers in every type
    return [t.detach() for t in (*outputs, *torch.autograd.grad(outputs, leaves, cotangents))]


def _apart(found: list[Tensor], exact: list[Tensor]) -> float:
    errors = [(a.double() - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)]
    return float(torch.stack(errors).max())  # which is NaN where one of them is


def write_record(path: Path, found: dict[str, dict[str, Any]]) -> list[str]:
    """Add a run with the kernels that hold to the record, atomically; return the files of those that do not."""
    where = circumstances()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else where["device"]["processor"]
    held = {file: {"digest": k["digest"], "errors": k["errors"]} for file, k in found.items() if k["holds"]}
    run = {"device": device, **{key: where[key] for key in ("versions", "commit", "command", "time")}, "kernels": held}
    write_json(path, {"schema": SCHEMA, "runs": [*recorded_runs(path), run]})
    return [file for file in found if file not in held]
