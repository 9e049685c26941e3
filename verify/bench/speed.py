"""``affdiv bench``: the generated layers against torch's and other libraries', timed in turn in one run.

    shapes ──▶ providers ──▶ modules, compiled and warmed up ──▶ launches in turn ──▶ rows

Every ratio divides a launch by that of torch's layer in the same round, so that a temporary slowdown of the machine
affects both sides; the median over rounds is reported.

Not done here: comparing the outputs of the modules; ``affdiv verify`` and the tests do that.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from derive.errors import UsageError
from verify.bench.compiled import compiled
from verify.bench.launch import Times, host_seconds, interleaved
from verify.bench.limits import Limits, measure_limits
from verify.bench.memory import peak_bytes, saved_bytes
from verify.bench.providers import Provider, providers
from verify.bench.rows import PARTS, Row, Speed, Spread
from verify.bench.shapes import Feed, Shape, feeds, memory_format
from verify.checks.runner import DEVICES, NO_CUDA

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
DEFAULT_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
_MOST_THREADS = 1024
_LEAST_ROUNDS = {False: 7, True: 3}
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Request:
    """What to measure: shapes, device, dtype, seconds per shape, and whether this is only a quick trial.

    ``only`` names the providers to measure beside torch's layer, all if empty; those in ``without`` are left out. A
    failure of one of our layers ends the run, unless ``tolerant``, which lists the layer as missing, with the reason.
    """

    shapes: tuple[Shape, ...]
    device: str = "cpu"
    dtype: str = "float32"
    seconds: float = 20.0
    quick: bool = False
    seed: int = 0
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    tolerant: bool = False

    def check(self) -> None:
        """Raise UsageError for an unknown device or dtype, and for a device that this machine lacks."""
        if self.device not in DEVICES:
            raise UsageError(f"device {self.device!r} is not known; choose one of {', '.join(DEVICES)}")
        if self.dtype not in DTYPES:
            raise UsageError(f"type {self.dtype!r} is not known; choose one of {', '.join(DTYPES)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UsageError(f"{NO_CUDA}; use --device cpu, or run on a machine with a GPU and a torch built for it")

    def takes(self, provider: str) -> bool:
        """Return whether the request includes a provider."""
        return provider not in self.without and (not self.only or provider in self.only)


def thread_counts(text: str) -> tuple[int, ...]:
    """Return the numbers in a text such as ``1,2``, torch's own number for an empty one; else raise UsageError."""
    words = text.replace(" ", "").split(",") if text else [str(torch.get_num_threads())]
    if not all(word.isascii() and word.isdigit() and 0 < int(word) <= _MOST_THREADS for word in words):
        raise UsageError(f"threads {text!r} is not a list of numbers from 1 to {_MOST_THREADS}; write one such as 1,2")
    return tuple(map(int, words))


@dataclass(frozen=True)
class _Built:
    """A provider's module, warmed up; ``host`` is its call overhead in seconds."""

    provider: Provider
    module: nn.Module
    saved: int
    peak: int
    host: float | None


def measure(request: Request, progress: Progress) -> Speed:
    """Measure every provider at every shape; raise UsageError for an invalid request."""
    request.check()
    dtype = DTYPES[request.dtype]
    limits = measure_limits(request.device, dtype, request.quick)
    rows: list[Row] = []
    missing: dict[str, str] = {}
    with warnings.catch_warnings():
        if not request.quick:
            warnings.simplefilter("ignore")  # torch.compile warns about how it traces torch's layers
        for shape in request.shapes:
            rows += _measure_shape(request, shape, dtype, limits, missing, progress)
    return Speed(request.device, request.dtype, request.seed, limits, tuple(rows), missing)


def _measure_shape(
    request: Request, shape: Shape, dtype: torch.dtype, limits: Limits, missing: dict[str, str], progress: Progress
) -> list[Row]:
    data = feeds(shape, request.device, dtype, request.seed)
    tiny = feeds(shape.tiny, request.device, dtype, request.seed)[0]
    torch.manual_seed(request.seed)
    torch.compiler.reset()  # else the next shape would compile to dynamic, slower code
    built: list[_Built] = []
    twin, *others = providers(shape, request.device, compiles=not request.quick)
    known = [twin, *(p for p in others if request.takes(p.name))]
    for number, provider in enumerate(known):
        progress(f"{shape.text}: {provider.name}", number / len(known))
        result = provider.missing or _build(provider, shape, data[0], tiny, request.tolerant)
        if isinstance(result, str):
            missing[provider.name] = result
        else:
            built.append(result)
    modules = [b.module for b in built]
    times = interleaved(
        modules,
        data,
        request.device,
        0.0 if request.quick else request.seconds,
        _LEAST_ROUNDS[request.quick],
        lambda share: progress(f"{shape.text}: launches", share),
    )
    return [_row(b, t, times[0], shape, limits, dtype) for b, t in zip(built, times, strict=True)]


def _build(provider: Provider, shape: Shape, feed: Feed, tiny: Feed, tolerant: bool) -> _Built | str:
    """Return the module, ready to be timed, or the reason why another library or a compiler refused it."""
    try:
        module = provider.build(shape).to(device=feed.x.device, dtype=feed.x.dtype)
        _lay_out(module, memory_format(shape, feed.x.device.type))
        host = None
        if provider.compiled:
            module = compiled(module, provider.mode)
        elif not provider.graphed:
            host = host_seconds(provider.build(shape.tiny).to(device=feed.x.device, dtype=feed.x.dtype), tiny)
        saved, peak = saved_bytes(module, feed), peak_bytes(module, feed)
        if provider.graphed:
            _capture(module, feed)
        return _Built(provider, module, saved, peak, host)
    except (ImportError, AttributeError, RuntimeError, TypeError, ValueError) as problem:
        if provider.ours and not (tolerant or provider.compiled or provider.graphed):
            raise
        return f"{type(problem).__name__}: {str(problem).strip().splitlines()[0]}"


def _lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Give convolution weights (the parameters with four axes) the memory format of the images."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def _capture(module: nn.Module, feed: Feed) -> None:
    """Make the module replay both passes as CUDA graphs, on a copy of each input."""
    torch.cuda.make_graphed_callables(module, (feed.x.detach().clone().requires_grad_(),))


def _row(built: _Built, times: Times, twin: Times, shape: Shape, limits: Limits, dtype: torch.dtype) -> Row:
    operations, traffic = shape.operations(), shape.traffic(dtype.itemsize)
    return Row(
        shape=shape.text,
        provider=built.provider.name,
        ours=built.provider.ours,
        seconds={part: Spread.of(times.of(part)) for part in PARTS},
        ratio={part: Spread.of(_ratios(times.of(part), twin.of(part))) for part in PARTS},
        ratio_of_least={part: min(times.of(part)) / min(twin.of(part)) for part in PARTS},
        product_share={p: operations[p] / statistics.median(times.of(p)) / limits.product_operations for p in PARTS},
        copy_share={p: traffic[p] / statistics.median(times.of(p)) / limits.copy_bytes for p in PARTS},
        saved_bytes=built.saved,
        peak_bytes=built.peak,
        host_seconds=built.host,
    )


def _ratios(times: Sequence[float], twin: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(times, twin, strict=True)]
