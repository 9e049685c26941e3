"""Every way to call a generated map, against its formula with autograd's derivatives, in float64.

frozen-subsets      gradients of any choice of inputs and parameters, the others frozen
batches             no sample, one, several leading axes, and so many that three threads share them
layouts             strided, transposed and expanded operands and gradients
no-energy           samples with energy zero, where the scale and its derivative are defined as 0
magnitudes          inputs from 1e-30 to 1e30 in float32 and bfloat16; errors in units of the rounding error
forward-mode        tangents of all and of some operands
vmap                over inputs, over parameters, and gradients of each sample
double-backward     the gradient of a gradient
compiled            by torch.compile with aot_eager, both passes
kernels             both passes must launch kernels of the target
on-host             the CUDA kernels compiled for the CPU, if there is no CUDA device
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from derive.forward_map import BATCH
from verify.checks.cases import Case, Subject, cases
from verify.checks.compare import largest
from verify.checks.comparison import Named, Side, distance, gradients
from verify.checks.evaluate import evaluate
from verify.checks.gradients import ROUNDINGS, errors_in_roundings
from verify.checks.layer_files.launches import launches
from verify.checks.layer_files.sides import real, sides, values_of
from verify.checks.layer_files.subjects import FORMULA, plain_value
from verify.checks.record import Outcome, Setting, Task
from verify.checks.target import package
from verify.cuda_on_host import Host, missing
from verify.threads import so_many_threads

BOUND = 1e-9
_INSTANCES = 3
_MOST_SUBSETS = 16
_MANY = 3 * 2**14 + 7  # numbers: enough for three threads, and not a multiple of any block size
_OF_INTERPRETED = ("frozen-subsets", "no-energy")  # Triton's interpreter needs seconds per launch
_SCALES = (1e-30, 1e-12, 1e12, 1e30)
_IN_RANGE = (1e-36, 1e36)
Errors = Callable[[Subject, Case, torch.Generator], Iterator[float]]


def tasks(subject: Subject) -> list[Task]:
    """Return the checks of one generated map on one backend."""
    if subject.backend == FORMULA:
        return []
    names = _OF_INTERPRETED if subject.backend == "triton" else tuple(_PATHS)
    found = [_task(subject, name, *_PATHS[name]) for name in names]
    found += [_magnitudes(subject, dtype) for dtype in ("float32", "bfloat16")]
    if subject.backend == "torch":
        return [*found, _stated(subject)]
    if subject.backend == "cuda":
        return [*found, _on_host(subject)]
    return [*found, _kernels(subject)] if subject.backend == "cpp" else found


def _task(subject: Subject, name: str, of: str, errors: Errors) -> Task:
    identity = subject.identity("path", name)

    def run(setting: Setting) -> Outcome:
        """Return the largest relative difference from the formula."""
        drawn = cases(subject, setting, identity, count=_INSTANCES, least=2, largest=4)
        generator = setting.generator(f"{identity}/values")
        found = [error for case in drawn for error in errors(subject, case, generator)]
        if not found:
            return Outcome("the layer's own formula is undefined at these inputs")
        return Outcome(f"largest difference from the formula, {len(drawn)} random shapes", largest(found), BOUND)

    return Task(identity, subject.layer, subject.backend, "float64", equations(subject, of), run)


def equations(subject: Subject, of: str) -> str:
    """Return the ids of the equations that a path evaluates: the forward map, every gradient, or the tangent."""
    if of != "backward":
        return subject.equation(of)
    return ", ".join(subject.equation(f"backward-d{name}") for name in subject.by)


def _compared(subject: Subject, case: Case, g: Tensor | None = None) -> float:
    """Return the difference of output and all gradients from the formula's."""
    values, (module, formula) = values_of(case), sides(subject, case)
    g = case.g if g is None else g
    wanted = gradients(formula, values, g, real(values))
    return distance(gradients(module, values, g, real(values)), wanted)


def _frozen_subsets(subject: Subject, case: Case, generator: torch.Generator) -> Iterator[float]:
    values, (module, formula) = values_of(case), sides(subject, case)
    names = real(values)
    z, *exact = gradients(formula, values, case.g, names)
    known = dict(zip(names, exact, strict=True))
    subsets = [c for count in range(len(names) + 1) for c in itertools.combinations(names, count)]
    for chosen in subsets[:_MOST_SUBSETS] + subsets[_MOST_SUBSETS:][-_MOST_SUBSETS:]:
        yield distance(gradients(module, values, case.g, chosen), [z, *(known[n] for n in chosen)])


def _batches(subject: Subject, case: Case, generator: torch.Generator) -> Iterator[float]:
    for count in (0, 1, 3):
        yield _compared(subject, _of_samples(case, count, generator))
    each = min(t[:1].numel() for t in (*case.inputs.values(), case.g))
    with so_many_threads(3):
        yield _compared(subject, _of_samples(case, min(_MANY // each + 1, _MANY // 2), generator))
    yield _leading_axes(subject, _of_samples(case, 6, generator))


def _of_samples(case: Case, count: int, generator: torch.Generator) -> Case:
    """Return the instance with ``count`` samples: its own, repeated and rescaled at random."""
    batch = case.sizes[BATCH.size.name]
    rows = torch.randint(batch, (count,), generator=generator).to(case.g.device)
    inputs = {}
    for name, t in case.inputs.items():
        factors = 0.5 + torch.rand(count, *(1 for _ in t.shape[1:]), generator=generator, dtype=torch.float64)
        inputs[name] = t[rows] * factors.to(t) if t.is_floating_point() else t[rows]
    return replace(case, inputs=inputs, g=case.g[rows], sizes={**case.sizes, BATCH.size.name: count})


def _leading_axes(subject: Subject, case: Case) -> float:
    """Return the difference for a batch of two axes, (2, 3), and for no batch axis."""
    values, (module, _) = values_of(case), sides(subject, case)
    flat = module(values)
    pairs = {n: t.unflatten(0, (2, 3)) if n in case.inputs else t for n, t in values.items()}
    alone = {n: t[0] if n in case.inputs else t for n, t in values.items()}
    return distance([module(pairs), module(alone)], [flat.unflatten(0, (2, 3)), flat[0]])


def _layouts(subject: Subject, case: Case, generator: torch.Generator) -> Iterator[float]:
    values, (module, formula) = values_of(case), sides(subject, case)
    names = real(values)
    changes: tuple[Callable[[Tensor], Tensor], ...] = (_every_other, _reversed_axes, _offset)
    for change in changes:
        exact = gradients(formula, values, case.g, names)
        laid = {name: change(t) for name, t in values.items()}
        yield distance(gradients(module, laid, change(case.g), names), exact)
    even = torch.ones((), dtype=case.g.dtype, device=case.g.device).expand(case.g.shape)
    yield _compared(subject, case, even)


def _every_other(t: Tensor) -> Tensor:
    return torch.stack([t, 3 * t], -1)[..., 0]


def _reversed_axes(t: Tensor) -> Tensor:
    axes = list(reversed(range(t.dim())))
    return t.permute(axes).contiguous().permute(axes)


def _offset(t: Tensor) -> Tensor:
    return torch.cat([t.new_ones(1), t.flatten(), t.new_ones(1)])[1:-1].view(t.shape)


def _no_energy(subject: Subject, case: Case, generator: torch.Generator) -> Iterator[float]:
    """Some samples, then all, with every real input zero; nothing if the formula itself is undefined there."""
    for silent in (slice(0, 1), slice(None)):
        inputs = {n: t.clone() for n, t in case.inputs.items()}
        for t in inputs.values():
            if t.is_floating_point():
                t[silent] = 0
        changed = replace(case, inputs=inputs)
        with torch.no_grad():
            plain = plain_value(subject.source(), values_of(changed), changed)
        if bool(torch.isfinite(plain).all()):
            yield _compared(subject, changed)


def _forward_mode(subject: Subject, case: Case, generator: torch.Generator) -> Iterator[float]:
    values, both = values_of(case), sides(subject, case)
    names = real(values)
    for moved in (names, *([name] for name in names)):
        at = tuple(values[name] for name in moved)
        tangents = tuple(_normal_like(t, generator) for t in at)
        yield distance(*(torch.func.jvp(_of(side, values, moved), at, tangents) for side in both))


def _of(side: Side, values: Named, moved: Sequence[str]) -> Callable[..., Tensor]:
    """Return a side as a function of the tensors ``moved`` alone."""
    return lambda *given: side({**values, **dict(zip(moved, given, strict=True))})


def _normal_like(t: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t)


def _vmap(subject: Subject, case: Case, generator: torch.Generator) -> Iterator[float]:
    values, (module, formula) = values_of(case), sides(subject, case)
    names = real(values)
    inputs, parameters = [n for n in names if n in case.inputs], [n for n in names if n not in case.inputs]
    for moved in filter(None, (inputs, parameters, names)):
        many = [torch.stack([values[n], _near(values[n], generator)]) for n in moved]
        each = [{**values, **{n: t[k] for n, t in zip(moved, many, strict=True)}} for k in range(2)]
        mapped = _of(module, values, moved)
        yield distance([torch.vmap(mapped)(*many)], [torch.stack([formula(one) for one in each])])
        slopes = torch.func.grad(_weighed(mapped, case.g), tuple(range(len(moved))))
        wanted = [gradients(formula, one, case.g, moved)[1:] for one in each]
        yield distance(torch.vmap(slopes)(*many), [torch.stack(pair) for pair in zip(*wanted, strict=True)])


def _near(t: Tensor, generator: torch.Generator) -> Tensor:
    """Return other values with the same signs, at which the layer is defined if it is defined at these."""
    return t * (0.5 + torch.rand(t.shape, generator=generator, dtype=torch.float64)).to(t)


def _weighed(function: Callable[..., Tensor], g: Tensor) -> Callable[..., Tensor]:
    return lambda *given: (function(*given) * g).sum()


def _double_backward(subject: Subject, case: Case, generator: torch.Generator) -> Iterator[float]:
    values = values_of(case)
    names = real(values)
    directions = [_normal_like(values[name], generator) for name in names]
    results = []
    for side in sides(subject, case):
        leaves = {n: t.detach().requires_grad_(n in names) for n, t in values.items()}
        g = case.g.clone().requires_grad_()
        first = torch.autograd.grad(side(leaves), [leaves[n] for n in names], g, create_graph=True)
        along = sum(((d * f).sum() for d, f in zip(directions, first, strict=True)), torch.zeros(()).to(g))
        second = torch.autograd.grad(along, [*(leaves[n] for n in names), g], allow_unused=True, materialize_grads=True)
        results.append([*first, *second])
    yield distance(*results)


def _compiled(subject: Subject, case: Case, generator: torch.Generator) -> Iterator[float]:
    values, (_, formula) = values_of(case), sides(subject, case)
    torch.compiler.reset()
    module = torch.compile(case.module, backend="aot_eager", fullgraph=True)
    try:
        inputs = [values[n].requires_grad_(values[n].is_floating_point()) for n in case.inputs]
        z = module(*inputs)
        leaves = {**dict(zip(case.inputs, inputs, strict=True)), **case.parameters()}
        names = [n for n, t in leaves.items() if t.is_floating_point()]
        found = torch.autograd.grad(z, [leaves[n] for n in names], case.g)
        yield distance([z, *found], gradients(formula, values_of(case), case.g, names))
    finally:
        torch.compiler.reset()


_PATHS: dict[str, tuple[str, Errors]] = {
    "frozen-subsets": ("backward", _frozen_subsets),
    "batches": ("backward", _batches),
    "layouts": ("backward", _layouts),
    "no-energy": ("backward", _no_energy),
    "forward-mode": ("tangent", _forward_mode),
    "vmap": ("backward", _vmap),
    "double-backward": ("backward", _double_backward),
    "compiled": ("backward", _compiled),
}


def _magnitudes(subject: Subject, dtype: str) -> Task:
    identity = f"{subject.identity('path', 'magnitudes')}/{dtype}"
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]

    def run(setting: Setting) -> Outcome:
        """Return the largest error over the magnitudes at which the uncorrected layer stays in range."""
        drawn = cases(subject, setting, identity, count=2, least=2, largest=4)
        generator = setting.generator(f"{identity}/rounding")
        scaled = [(by, _scaled(case, by)) for case in drawn for by in _SCALES]
        usable = [(by, case) for by, case in scaled if _in_range(subject, case)]
        if not usable:
            return Outcome("the uncorrected layer leaves the range of the dtype at 1e-30, 1e-12, 1e12 and 1e30")
        every = [errors_in_roundings(subject, case, kind, generator) for _, case in usable]
        worst = largest(error for errors in every for error in errors.values())
        seen = ", ".join(f"{by:g}" for by in dict.fromkeys(by for by, _ in usable))
        return Outcome(f"inputs of {seen}, error in units of the rounding error", worst, ROUNDINGS)

    return Task(identity, subject.layer, subject.backend, dtype, equations(subject, "backward"), run)


def _scaled(case: Case, by: float) -> Case:
    return replace(case, inputs={n: t * by if t.is_floating_point() else t for n, t in case.inputs.items()})


def _in_range(subject: Subject, case: Case) -> bool:
    """Return whether outputs and derivatives, of the uncorrected layer and of the map, fit in float32."""
    values = values_of(case)
    both = (lambda given: plain_value(subject.source(), given, case), sides(subject, case)[1])
    results = [t for side in both for t in gradients(side, values, case.g, real(values))]
    sizes = torch.cat([t.detach().abs().flatten() for t in results])
    least, most = _IN_RANGE
    return bool((torch.isfinite(sizes) & ((sizes == 0) | ((sizes > least) & (sizes < most)))).all())


def _stated(subject: Subject) -> Task:
    identity = subject.identity("path", "stated-self-factor")

    def run(setting: Setting) -> Outcome:
        """Return the largest relative error of the package's ``self_factor``."""
        drawn = cases(subject, setting, identity, count=_INSTANCES, least=1, largest=4)
        worst = largest(_stated_error(subject, case) for case in drawn)
        return Outcome(f"self_factor(module, ..) against the derived one, {len(drawn)} shapes", worst, BOUND)

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation("self-factor"), run)


def _stated_error(subject: Subject, case: Case) -> float:
    """Return the error of the stated factor: one number per sample, one per unit, or a matrix over units."""
    source = subject.source()
    factor = source.derivation.self_factor
    units = source.derivation.units
    behind = {"isotropic": (), "diagonal": units, "full": (*units, *(u.primed() for u in units))}[factor.shape]
    derived = evaluate(source.self_factor, (*source.derivation.samples, *behind), case.point(source.mapped))
    stated = package().self_factor(case.module.inner, *case.inputs.values())
    return distance([stated], [torch.as_tensor(derived)])


def _on_host(subject: Subject) -> Task:
    identity = subject.identity("path", "on-host")

    def run(setting: Setting) -> Outcome:
        """Return the largest difference of the CUDA kernels, compiled for the CPU, over the frozen subsets."""
        if setting.device != "cpu":
            return Outcome("not needed: the CUDA kernels run on the CUDA device")
        lacking = missing()
        if lacking:
            return Outcome(f"the CUDA kernels cannot be compiled for the CPU: {lacking}")
        drawn = cases(subject, setting, identity, count=2, least=2, largest=4)
        generator = setting.generator(f"{identity}/values")
        with Host(type(drawn[0].module.inner).__module__.partition(".")[0]) as host:
            worst = largest(error for case in drawn for error in _frozen_subsets(subject, case, generator))
            names = ", ".join(dict.fromkeys(str(name) for name, *_ in host.launched))
        if not names:
            return Outcome("no kernel was launched", ok=False)
        return Outcome(f"compiled for the CPU, launched: {names}", worst, BOUND)

    equation = equations(subject, "backward")
    return Task(identity, subject.layer, subject.backend, "float64", equation, run, uses_device=False)


def _has_kernels(module: ModuleType, subject: Subject) -> bool:
    """Return whether the C++ source of a class contains a kernel."""
    name = f"kernels/cpp/{(subject.form or 'plain').replace('-', '_')}.cpp"
    paths = [Path(folder) / name for folder in module.__path__]
    return any("KERNEL " in path.read_text(encoding="utf-8") for path in paths if path.is_file())


def _kernels(subject: Subject) -> Task:
    identity = subject.identity("path", "kernels")

    def run(setting: Setting) -> Outcome:
        """Return whether both passes launch kernels of the target."""
        (case,) = cases(subject, setting, identity, count=1, least=2, largest=4)
        with launches(package()) as seen:
            _compared(subject, case)
        if not seen and not _has_kernels(package(), subject):
            return Outcome("the map consists of matrix products alone, which need no kernel of their own")
        names = ", ".join(f"{name.partition(':')[2]} x{count}" for name, count in sorted(seen.items()))
        return Outcome(f"launched: {names}" if names else "no kernel was launched", ok=bool(names))

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation("forward"), run)
