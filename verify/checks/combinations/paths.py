"""Every way to call a generated map (path), each compared with the hand-written map in float64.

eager               output and gradients
recorded            the same with create_graph, so that gradients can be differentiated
second-order        gradients of gradients
forward-mode        tangents by torch.func.jvp
dual-numbers        tangents by torch.autograd.forward_ad
forward-over-reverse   the tangent of a gradient
vmap                over an extra axis, first or last
per-sample          gradients under vmap
compiled            by torch.compile with aot_eager, both passes
inductor            by torch.compile with Inductor
autocast            both passes inside autocast
autocast-backward   the backward pass alone inside autocast
watched             under a TorchDispatchMode, which sees every operation
traced              by torch.jit.trace
fake                shapes and dtypes under FakeTensorMode
rounding            whether results that kernels round once are correctly rounded
inference           inside inference_mode
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from verify.checks.combinations.instance import BOUNDS, Instance
from verify.checks.comparison import Named, Side, distance, gradients

Errors = Callable[[Instance, torch.Generator], float]


def eager(case: Instance, generator: torch.Generator) -> float:
    """Output and gradients with respect to the wanted tensors; the others are frozen."""
    return _both(case, case.by_module, recorded=False)


def recorded(case: Instance, generator: torch.Generator) -> float:
    """The same with ``create_graph``, so that the gradients can be differentiated."""
    return _both(case, case.by_module, recorded=True)


def _both(case: Instance, side: Side, *, recorded: bool) -> float:
    exact = gradients(case.reference, case.exact(), case.g.double(), case.wanted)
    found = gradients(side, case.operands(), case.laid(case.g), case.wanted, recorded=recorded)
    return _checked(found, exact, [case.dtype] * len(found), case)


def _checked(found: Sequence[Tensor], exact: Sequence[Tensor], types: Sequence[torch.dtype], case: Instance) -> float:
    """Return the distance in units of the first dtype's bound; infinite if a result has the wrong dtype."""
    if [t.dtype for t in found] != list(types):
        return float("inf")
    return distance(found, exact, ordinary=case.ordinary) / (BOUNDS[types[0]] * case.slack)


def second_order(case: Instance, generator: torch.Generator) -> float:
    """Gradients of the gradients along random directions, with respect to every wanted tensor and to ``g``."""
    directions = [normal_like(case.values[name], generator) for name in case.wanted]
    results = []
    for side, values, g in (
        (case.by_module, case.operands(), case.g),
        (case.reference, case.exact(), case.g.double()),
    ):
        leaves = {n: t.detach().requires_grad_(n in case.wanted) for n, t in values.items()}
        g = g.detach().clone().requires_grad_()
        given = [leaves[n] for n in case.wanted]
        first = torch.autograd.grad(side(leaves), given, g, create_graph=True)
        along = sum(((d.to(f) * f).sum() for d, f in zip(directions, first, strict=True)), g.new_zeros(()))
        second = torch.autograd.grad(along, [*given, g], allow_unused=True, materialize_grads=True)
        results.append([*first, *second])
    return _checked(results[0], results[1], [case.dtype] * len(results[0]), case)


def forward_mode(case: Instance, generator: torch.Generator) -> float:
    """Tangents of the wanted tensors by ``torch.func.jvp``."""
    tangents = {name: normal_like(case.values[name], generator) for name in case.wanted}
    exact = _jvp(case.reference, case.exact(), {n: t.double() for n, t in tangents.items()})
    found = _jvp(case.by_module, case.operands(), tangents)
    return _checked(found, exact, [case.dtype] * 2, case)


def _jvp(side: Side, values: Named, tangents: Named) -> list[Tensor]:
    at = tuple(values[name] for name in tangents)
    moved = torch.func.jvp(of(side, values, list(tangents)), at, tuple(tangents.values()))
    return [moved[0], moved[1]]


def of(side: Side, values: Named, moved: Sequence[str]) -> Callable[..., Tensor]:
    """Return a side as a function of the tensors ``moved`` alone."""
    return lambda *given: side({**values, **dict(zip(moved, given, strict=True))})


def dual_numbers(case: Instance, generator: torch.Generator) -> float:
    """Tangents of the wanted tensors by ``torch.autograd.forward_ad``, outside ``torch.func``."""
    tangents = {name: normal_like(case.values[name], generator) for name in case.wanted}
    exact = _jvp(case.reference, case.exact(), {n: t.double() for n, t in tangents.items()})
    with forward_ad.dual_level():
        values = dict(case.operands())
        for name, tangent in tangents.items():
            values[name] = forward_ad.make_dual(values[name], tangent)
        z, moved = forward_ad.unpack_dual(case.by_module(values))
    found = [z, torch.zeros_like(z) if moved is None else moved]
    return _checked(found, exact, [case.dtype] * 2, case)


def forward_over_reverse(case: Instance, generator: torch.Generator) -> float:
    """Tangents of gradients: Hessian-vector products."""
    tangents = {name: normal_like(case.values[name], generator) for name in case.wanted}
    names, results = list(tangents), []
    for side, values, dtype in (
        (case.by_module, case.operands(), case.dtype),
        (case.reference, case.exact(), torch.float64),
    ):
        slopes = torch.func.grad(weighed(of(side, values, names), case.g.to(dtype)), tuple(range(len(names))))
        at, along = tuple(values[n] for n in names), tuple(t.to(dtype) for t in tangents.values())
        results.append(list(torch.func.jvp(slopes, at, along)[1]))
    return _checked(results[0], results[1], [case.dtype] * len(names), case)


def weighed(function: Callable[..., Tensor], g: Tensor) -> Callable[..., Tensor]:
    """Return the scalar function ``sum(g * function)``."""
    return lambda *given: (function(*given) * g).sum()


def mapped(case: Instance, generator: torch.Generator) -> float:
    """The map vmapped over an extra axis of the wanted tensors: first for some of them, last for others."""
    many, each = _several(case, generator)
    axes = {name: -1 if k % 2 else 0 for k, name in enumerate(many)}
    given = [t.movedim(0, axes[name]) for name, t in many.items()]
    function = of(case.by_module, case.operands(), list(many))
    found = torch.vmap(function, tuple(axes.values()))(*given)
    exact = torch.stack([case.reference(one) for one in each])
    return _checked([found], [exact], [case.dtype], case)


def _several(case: Instance, generator: torch.Generator) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Return the wanted tensors stacked with nearby values, and each set of values in float64."""
    many = {n: torch.stack([case.values[n], near(case.values[n], generator)]) for n in case.wanted}
    return many, [{**case.exact(), **{n: t[k].double() for n, t in many.items()}} for k in range(2)]


def near(t: Tensor, generator: torch.Generator) -> Tensor:
    """Return other values with the same signs and about the same magnitudes."""
    return t * (0.5 + torch.rand(t.shape, generator=generator, dtype=torch.float64)).to(t)


def per_sample(case: Instance, generator: torch.Generator) -> float:
    """Gradients under ``torch.vmap``."""
    many, each = _several(case, generator)
    function = weighed(of(case.by_module, case.operands(), list(many)), case.g)
    found = torch.vmap(torch.func.grad(function, tuple(range(len(many)))))(*many.values())
    wanted = [gradients(case.reference, one, case.g.double(), case.wanted)[1:] for one in each]
    exact = [torch.stack(pair) for pair in zip(*wanted, strict=True)]
    return _checked(found, exact, [case.dtype] * len(many), case)


def compiled(cases: Sequence[Instance], backend: str = "aot_eager") -> list[float]:
    """Both passes of compiled modules, compiled together in one graph, because compilation dominates the time."""
    torch.compiler.reset()
    leaves = [{n: t.detach().requires_grad_(n in case.wanted) for n, t in case.operands().items()} for case in cases]

    def together(every: list[dict[str, Tensor]]) -> list[Tensor]:
        return [case.by_module(values) for case, values in zip(cases, every, strict=True)]

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)  # the compiler's
            outputs = torch.compile(together, backend=backend, fullgraph=True)(leaves)
        given = [values[name] for case, values in zip(cases, leaves, strict=True) for name in case.wanted]
        slopes = iter(torch.autograd.grad(outputs, given, [case.g for case in cases]))
    finally:
        torch.compiler.reset()
    errors = []
    for case, z in zip(cases, outputs, strict=True):
        found = [z, *(next(slopes) for _ in case.wanted)]
        exact = gradients(case.reference, case.exact(), case.g.double(), case.wanted)
        errors.append(_checked(found, exact, [case.dtype] * len(found), case))
    return errors


def autocast(case: Instance, generator: torch.Generator) -> float:
    """Both passes inside autocast: the output has autocast's dtype, each gradient that of its tensor."""
    low = case.dtype if case.dtype is torch.float64 else torch.bfloat16
    rounded = {name: t.to(low).double() for name, t in case.values.items()}
    exact = gradients(case.reference, rounded, case.g.to(low).double(), case.wanted)
    values, g = case.operands(), case.g.to(low)
    with torch.autocast(case.g.device.type, dtype=torch.bfloat16):
        found = gradients(case.by_module, values, g, case.wanted)
    return _checked(found, exact, [low, *[case.dtype] * len(case.wanted)], case)


def autocast_backward(case: Instance, generator: torch.Generator) -> float:
    """Only the backward pass inside autocast, which must change nothing."""
    exact = gradients(case.reference, case.exact(), case.g.double(), case.wanted)
    leaves = {name: t.detach().requires_grad_(name in case.wanted) for name, t in case.operands().items()}
    z = case.by_module(leaves)
    with torch.autocast(case.g.device.type, dtype=torch.bfloat16):
        found = torch.autograd.grad(z, [leaves[n] for n in case.wanted], case.g)
    return _checked([z, *found], exact, [case.dtype] * len(exact), case)


def traced(case: Instance, generator: torch.Generator) -> float:
    """The output of the module as traced by ``torch.jit.trace`` at other inputs."""
    values, module = case.operands(), case.loaded()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        others = tuple(near(values[name], generator) for name in case.inputs)
        program = torch.jit.trace(module, others, check_trace=False)
    found = program(*(values[name] for name in case.inputs))
    return _checked([found], [case.reference(case.exact())], [case.dtype], case)


def watched(case: Instance, generator: torch.Generator) -> float:
    """Output and gradients under a dispatch mode, which must see every operation."""
    with Looking():
        return _both(case, case.by_module, recorded=False)


class Looking(TorchDispatchMode):
    """A dispatch mode that runs every operation unchanged."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled under this mode, and torch's guard costs more than the operation

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation."""
        return func(*args, **(kwargs or {}))


def fake(case: Instance, generator: torch.Generator) -> float:
    """Shapes and dtypes under ``FakeTensorMode`` must equal those of the real results."""
    operands, g = case.operands(), case.laid(case.g)
    real = gradients(case.by_module, operands, g, case.wanted)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # masks are real tensors
        values = {name: mode.from_tensor(t) for name, t in operands.items()}
        found = gradients(case.by_module, values, mode.from_tensor(g), case.wanted)
    same = [(t.shape, t.dtype) for t in found] == [(t.shape, t.dtype) for t in real]
    return 0.0 if same else float("inf")


def inference(case: Instance, generator: torch.Generator) -> float:
    """The output for tensors created inside ``inference_mode``."""
    with torch.inference_mode():
        z = case.by_module({name: case.laid(t.clone()) for name, t in case.values.items()})
    return _checked([z], [case.reference(case.exact())], [case.dtype], case)


def rounding(case: Instance, generator: torch.Generator) -> float:
    """The share of outputs that are not correctly rounded, divided by 0.1, for kernels that round once."""
    exact = case.reference(case.exact()).detach()
    missed = (case.by_module(case.operands()).detach() != exact.to(case.dtype)).double().mean()
    return float(missed) / 0.1


def normal_like(t: Tensor, generator: torch.Generator) -> Tensor:
    """Return normal random numbers with a tensor's shape and dtype and about its magnitude."""
    size = float(t.abs().max()) if t.numel() else 0.0
    drawn = torch.randn(t.shape, generator=generator, dtype=torch.float64) * (size or 1.0)
    return drawn.to(t.dtype)


COMPILED, INDUCTOR, ROUNDING = "compiled", "inductor", "rounding"
PATHS: Mapping[str, Errors] = {
    "eager": eager,
    "recorded": recorded,
    "second-order": second_order,
    "forward-mode": forward_mode,
    "dual-numbers": dual_numbers,
    "forward-over-reverse": forward_over_reverse,
    "vmap": mapped,
    "per-sample": per_sample,
    "autocast": autocast,
    "autocast-backward": autocast_backward,
    "watched": watched,
    "traced": traced,
    "fake": fake,
    "inference": inference,
    ROUNDING: rounding,
}
