"""One case of the stage ``kernels``: a map by its GPU kernels, by torch's operations, and by the float64 reference."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from codegen.targets.base import KERNELS
from verify.gpu.kernel_cases import Case, case_of
from verify.gpu.part import FAIL, PASS, SKIPPED, Result, Setting

_SLACK = {torch.float64: 16.0}  # allowed error in epsilons, beyond torch's; the reference is itself in float64
_LEAST = 0.25  # the same for any other dtype
_PERIOD = 128  # distinct rows, which are repeated
_MANY, _FEW_SLACK = 200, 2.0  # results of fewer numbers than the first get the second as slack
_NEEDS = {target.name: target.library for target in KERNELS if target.library}


def measure_case(request: Mapping[str, Any], setting: Setting) -> Result:
    """Return the largest relative error of a case's results, and whether each is within its bound and reproducible."""
    missing = lacking(request["backend"], setting)
    if missing:
        return {"status": SKIPPED, "reason": missing}
    if setting.dry:
        _without_gpu(request["backend"])
    if request.get("check") == "long":
        return _long(request, setting)
    torch.backends.cudnn.allow_tf32 = False  # torch's own error is the yardstick, so it must be that of the dtype
    dtype = getattr(torch, request["dtype"])
    case = case_of(request, dtype, setting)
    exact = case.exact()
    bounds = [2 * e + _slack(t, dtype) for e, t in zip(errors(case.results("torch"), exact), exact, strict=True)]
    with marked_memory():
        ours = case.results(request["backend"])
        again = _again(case, request, ours)
    found = errors(ours, exact)
    shares = [e / bound for e, bound in zip(found, bounds, strict=True)]
    worst = next((k for k, s in enumerate(shares) if math.isnan(s)), max(range(len(shares)), key=shares.__getitem__))
    figures = {"error": max(found, key=_nan_first), "share_of_bound": shares[worst]}
    if not shares[worst] <= 1:
        reason = f"result {worst}: error {found[worst]:.3g}, bound {bounds[worst]:.3g}"
        return {"status": FAIL, "reason": reason, **figures}
    if not all(torch.equal(a, b) for a, b in zip(ours, again, strict=True)):
        how = {"graph": "a captured graph", "stream": "another stream"}.get(request.get("check", ""), "a second run")
        return {"status": FAIL, "reason": f"{how} gives a result with other bits", **figures}
    return {"status": PASS, **figures}


def lacking(backend: str, setting: Setting) -> str:
    """Return why the kernels of a backend cannot run here, or an empty text if they can."""
    if setting.dry and backend == "cuda":
        from verify.cuda_on_host import missing

        return missing()
    try:
        there = importlib.util.find_spec(_NEEDS[backend]) is not None
    except ModuleNotFoundError:  # its parent package is missing
        there = False
    return "" if there else f"{_NEEDS[backend]} is not installed"


def _long(request: Mapping[str, Any], setting: Setting) -> Result:
    """Return whether rows beyond 32-bit offsets are as accurate as the same rows at the start."""
    rows, n, m = request["shape"]
    short = case_of({**request, "shape": (_PERIOD, n, m)}, getattr(torch, request["dtype"]), setting)
    x, *parameters = short.tensors
    with torch.no_grad():
        (expected,) = short.run("torch", [t.double() for t in short.tensors])
        (z,) = short.run(request["backend"], [x.repeat(rows // _PERIOD, 1), *parameters])
    first, last = errors([z[:_PERIOD], z[-_PERIOD:]], [expected, expected])
    if max(first, last) <= torch.finfo(z.dtype).eps:
        return {"status": PASS, "error": max(first, last)}
    return {
        "status": FAIL,
        "reason": f"error {first:.3g} in the first rows but {last:.3g} in the last ones, which are the same rows",
    }


@cache
def _without_gpu(backend: str) -> None:
    """Make this process run the kernels of a backend on the CPU from now on."""
    if backend == "cuda":
        from verify.cuda_on_host import Host

        Host(watched=False).__enter__()
    else:
        from verify.triton_interpreter import mend

        mend()


def _again(case: Case, request: Mapping[str, Any], first: list[Tensor]) -> list[Tensor]:
    """Return the results of another run: plain, as a captured graph, or on another stream."""
    backend, check = request["backend"], request.get("check")
    if check == "graph":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = case.results(backend)
        graph.replay()
        torch.cuda.synchronize()
        return captured
    if check == "stream":
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            found = case.results(backend)
        stream.synchronize()
        return found
    return case.results(backend)


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Return the error of each result: root mean square, relative to the exact tensor's; NaN if it contains NaN."""
    tiny = torch.finfo(torch.float64).tiny
    return [float((a.double() - b).norm() / b.norm().clamp(min=tiny)) for a, b in zip(found, exact, strict=True)]


def _nan_first(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _slack(exact: Tensor, dtype: torch.dtype) -> float:
    """Return the allowed error beyond twice torch's own; with few numbers that varies by chance, so it is larger."""
    epsilons = _SLACK.get(dtype, _LEAST if exact.numel() >= _MANY else _FEW_SLACK)
    return epsilons * torch.finfo(dtype).eps


@contextmanager
def marked_memory() -> Iterator[None]:
    """Fill new memory with NaN; otherwise entries that a kernel fails to write could hold old, correct results."""
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warns)
