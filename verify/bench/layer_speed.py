"""``affdiv bench --spec FILE``: the maps generated for the layer of a file against the layer composed in torch.

    sizes ──▶ layer and maps by einsum, the same compiled, ours on each backend ──▶ launches in turn ──▶ rows

Every ratio is to the plain layer in the same round, launch by launch. One more launch of both passes counts the kernels
that ran: the package's by name, or torch's operations if the package launched none.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from derive.errors import UsageError
from derive.forward_map import Layer
from verify.bench.launch import Times, interleaved
from verify.bench.layer_sizes import Sizes, text_of
from verify.bench.rows import PARTS, Spread
from verify.bench.shapes import Feed
from verify.bench.speed import DTYPES, Request
from verify.checks.cases import Source
from verify.checks.layer_files.formula import Formula
from verify.checks.layer_files.launches import launches
from verify.checks.layer_files.package import LayerFile
from verify.checks.layer_files.subjects import build, shape
from verify.checks.twins import Twin

SCHEMA = "affdiv.bench-layer/1"
_FEEDS = 4
_LEAST_ROUNDS = {False: 7, True: 3}
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Row:
    """One way to compute the layer or a map at one set of sizes; ``ratio`` is to the plain layer, round by round.

    ``kernels`` counts the launches of both passes and ``backend`` names the backend that ran them. ``difference`` is
    the largest error of the output against the formula in float64, relative to the largest entry.
    """

    sizes: str
    computes: str
    provider: str
    ours: bool
    seconds: dict[str, Spread]
    ratio: dict[str, Spread]
    backend: str
    kernels: dict[str, int]
    difference: float


@dataclass(frozen=True)
class LayerSpeed:
    """A run: every row, and for each missing row the reason."""

    layer: str
    device: str
    dtype: str
    seed: int
    rows: tuple[Row, ...]
    missing: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain data: the schema ``affdiv.bench-layer/1`` without the machine and versions."""
        return {"schema": SCHEMA, **vars(self), "rows": [asdict(row) for row in self.rows]}


@dataclass(frozen=True)
class _Provider:
    """One way to compute ``of``, the layer or a map; ``make`` builds the module on the CPU."""

    of: Source
    name: str
    make: Callable[[Sizes], nn.Module]
    ours: bool = False
    compiled: bool = False

    @property
    def key(self) -> str:
        """The name of the layer or map and of the way it is computed."""
        return f"{self.of.mapped.name}: {self.name}"


class _Called(nn.Module):
    """A module of several inputs as a function of input ``first``; the others are held, and get gradients too."""

    def __init__(self, inner: nn.Module, first: int, others: Sequence[Tensor]) -> None:
        super().__init__()
        self.inner, self.first = inner, first
        self.held = [nn.Parameter(t) if t.is_floating_point() else t for t in others]
        for k, t in enumerate(self.held):
            if isinstance(t, nn.Parameter):
                self.register_parameter(f"input_{k}", t)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        z: Tensor = self.inner(*self.held[: self.first], x, *self.held[self.first :])
        return z


def measure_layer(request: Request, file: LayerFile, sizes: Sequence[Sizes], progress: Progress) -> LayerSpeed:
    """Time the layer and its maps at every set of sizes; UsageError for an invalid request."""
    request.check()
    assert file.layer is not None
    rows: list[Row] = []
    missing = {name: why["text"] for name, why in file.manifest.get("without", {}).items()}
    chosen = _providers(request, file, missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile warns about how it traces torch's operations
        for one in sizes:
            rows += _measure(request, file, one, chosen, missing, progress)
    return LayerSpeed(file.layer.name, request.device, request.dtype, request.seed, tuple(rows), missing)


def _providers(request: Request, file: LayerFile, missing: dict[str, str]) -> list[_Provider]:
    """Return the layer, then each map: composed, compiled, ours with the backend left open, ours on each backend."""
    assert file.layer is not None
    found = []
    sources = [Source(file.layer), *(Source(m.mapped, m) for m in file.derivation.solutions)]
    for source in sources:
        found.append(_Provider(source, "composed", partial(_recorded, source)))
        if request.quick:
            missing["compiled"] = "--quick leaves out torch.compile"
        else:
            found.append(_Provider(source, "composed, compiled", found[-1].make, compiled=True))
        if source.mapped.name not in file.classes:
            continue
        for backend in (None, *file.manifest["targets"]):
            reason = _misplaced(backend, request.device)
            if reason:
                missing[f"ours, {backend}"] = reason
                continue
            name = "ours" if backend is None else f"ours, {backend}"
            found.append(_Provider(source, name, partial(_ours, file, source, backend), ours=True))
    return found


def _misplaced(backend: str | None, device: str) -> str:
    """Return why a backend cannot run on a device, or an empty text if it can."""
    if backend in ("triton", "cuda") and device != "cuda":
        return "needs a GPU (--device cuda)"
    return "runs on the CPU (--device cpu)" if backend == "cpp" and device != "cpu" else ""


def _composed(source: Source, sizes: Sizes) -> Twin:
    """Return the layer or a map computed term by term from its formula, by einsum; kappa is the map's default."""
    layer, found = source.mapped, source.found
    scalars = {} if found is None else {"kappa": float(_default(found.kappa_default, sizes))}
    shapes = {p.name: shape(p.axes, sizes) for p in layer.parameters}
    return Twin(layer, lambda v: Formula(layer, v, scalars, sizes).output(), shapes)


class _Recorded(nn.Module):
    """A formula as a recorded list of torch operations, so that a call does not interpret the expression again."""

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self.graph: Callable[..., Tensor] | None = None
        self.function, self.names = twin.function, twin.names
        for name, parameter in list(twin.named_parameters()):
            self.register_parameter(name, parameter)

    def record(self, inputs: Sequence[Tensor]) -> None:
        """Record the operations at inputs with the shapes, dtype and device of later calls."""
        function, names = self.function, (*self.names, *(name for name, _ in self.named_parameters()))

        def value(inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
            return function(dict(zip(names, (*inputs, *parameters), strict=True)))

        self.graph = make_fx(value)(list(inputs), [p.detach() for p in self.parameters()])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output."""
        assert self.graph is not None
        return self.graph(list(inputs), list(self.parameters()))


def _recorded(source: Source, sizes: Sizes) -> nn.Module:
    return _Recorded(_composed(source, sizes))


def _ours(file: LayerFile, source: Source, backend: str | None, sizes: Sizes) -> nn.Module:
    return build(file, source.mapped, backend, sizes)


def _default(expression: Any, sizes: Sizes) -> Any:
    return expression.subs({s: sizes[s.name] for s in expression.free_symbols})


def _measure(
    request: Request,
    file: LayerFile,
    sizes: Sizes,
    chosen: Sequence[_Provider],
    missing: dict[str, str],
    progress: Progress,
) -> list[Row]:
    torch.manual_seed(request.seed)
    torch.compiler.reset()
    assert file.layer is not None
    data = _Data(file.layer, sizes, request)
    built: list[tuple[_Provider, nn.Module, float]] = []
    for number, provider in enumerate(chosen):
        progress(f"{text_of(sizes)}: {provider.key}", number / len(chosen))
        try:
            module = data.module(provider)
            module(data.feeds[0].x).backward(data.feeds[0].g)
            built.append((provider, module, data.difference(provider, module)))
        except (RuntimeError, ValueError, TypeError) as problem:
            told = f"{type(problem).__name__}: {str(problem).strip().splitlines()[0]}"
            if not provider.compiled:
                raise UsageError(
                    f"{provider.key} cannot be computed in {request.dtype} at {text_of(sizes)}: {told}; "
                    f"`affdiv verify {file.word}` says what is wrong with it"
                ) from problem
            missing[provider.key] = told
    times = interleaved(
        [module for _, module, _ in built],
        data.feeds,
        request.device,
        0.0 if request.quick else request.seconds,
        _LEAST_ROUNDS[request.quick],
        lambda share: progress(f"{text_of(sizes)}: launches", share),
    )
    return [_row(file, sizes, data, b, t, times[0]) for b, t in zip(built, times, strict=True)]


class _Data:
    """Parameters and inputs for one set of sizes, shared by all providers."""

    def __init__(self, layer: Layer, sizes: Sizes, request: Request) -> None:
        self.layer, self.sizes = layer, sizes
        self.dtype, self.device = DTYPES[request.dtype], request.device
        generator = torch.Generator().manual_seed(request.seed)

        def drawn(axes: Any, values: Any = None) -> Tensor:
            lengths = shape(axes, sizes)
            if values is not None:
                return torch.randint(int(_default(values, sizes)), lengths, generator=generator).to(self.device)
            return torch.randn(lengths, generator=generator).to(self.device, self.dtype)

        self.first = next((k for k, t in enumerate(layer.inputs) if t.values is None), 0)
        self.parameters = {p.name: drawn(p.axes) for p in layer.parameters}
        self.inputs = [drawn(t.axes, t.values) for t in layer.inputs]
        own, out = layer.inputs[self.first], tuple(i.size for i in layer.output.indices)
        xs = [drawn(own.axes, own.values) for _ in range(_FEEDS)]
        self.feeds = [Feed(x.requires_grad_(x.is_floating_point()), drawn(out)) for x in xs]

    def module(self, provider: _Provider) -> nn.Module:
        """Return a provider's module with the shared parameters, ready to launch."""
        inner = provider.make(self.sizes).to(self.device, self.dtype)
        with torch.no_grad():
            for name, value in self.parameters.items():
                inner.get_parameter(name).copy_(value)
        if isinstance(inner, _Recorded):
            inner.record([self.feeds[0].x.detach() if k == self.first else t for k, t in enumerate(self.inputs)])
        others = [t for k, t in enumerate(self.inputs) if k != self.first]
        module = _Called(inner, self.first, others)
        if provider.compiled:
            module.compile(dynamic=False)
        return module

    def difference(self, provider: _Provider, module: nn.Module) -> float:
        """Return the largest error of the output against the formula in float64, relative to the largest entry."""
        given = [t.double() if t.is_floating_point() else t for t in self.inputs]
        x = self.feeds[0].x.detach()
        given[self.first] = x.double() if x.is_floating_point() else x
        exact = _composed(provider.of, self.sizes).to(self.device, torch.float64)
        with torch.no_grad():
            for name, value in self.parameters.items():
                exact.get_parameter(name).copy_(value)
            z, wanted = module(self.feeds[0].x).double(), exact(*given)
            return float((z - wanted).abs().max() / wanted.abs().max())


class _Operations(TorchDispatchMode):
    """Counts torch's operations, views excepted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Count an operation and run it."""
        if not func.is_view:
            self.seen[f"aten:{func.overloadpacket.__name__}"] += 1
        return func(*args, **(kwargs or {}))


def _ran(file: LayerFile, provider: _Provider, module: nn.Module, feed: Feed) -> tuple[str, dict[str, int]]:
    """Return the backend that ran and the launches of both passes, counted by name."""
    if provider.ours:
        with launches(file.package) as seen:
            module(feed.x).backward(feed.g)
        if seen:
            return next(iter(seen)).partition(":")[0], dict(sorted(seen.items()))
    if provider.compiled:
        return "torch.compile", {}
    with _Operations() as counted:
        module(feed.x).backward(feed.g)
    return "torch", dict(counted.seen.most_common())


def _row(
    file: LayerFile, sizes: Sizes, data: _Data, built: tuple[_Provider, nn.Module, float], times: Times, plain: Times
) -> Row:
    provider, module, difference = built
    backend, kernels = _ran(file, provider, module, data.feeds[0])
    ratios = {p: [a / b for a, b in zip(times.of(p), plain.of(p), strict=True)] for p in PARTS}
    return Row(
        sizes=text_of(sizes),
        computes=provider.of.mapped.name,
        provider=provider.name,
        ours=provider.ours,
        seconds={part: Spread.of(times.of(part)) for part in PARTS},
        ratio={part: Spread.of(ratios[part]) for part in PARTS},
        backend=backend,
        kernels=kernels,
        difference=difference,
    )
