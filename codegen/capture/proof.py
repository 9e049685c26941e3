"""The proof of a capture: the layer at 60 digits against the module in float64, by value and by slope.

At each of the smallest sampled sizes, parameters and inputs are moved to a random point p. Values are compared entry
by entry. Slopes are compared for each parameter along a random direction v, for a random weighting w of the output,

    (sum w z(p + h v) - sum w z(p))/h     at 60 digits, h = 1e-20,     against     v . d(sum w z)/dp     by autograd.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Expr

from codegen.capture.errors import CaptureError, refuse
from codegen.capture.factory import in_double
from codegen.capture.fitting import Fitter
from codegen.capture.sampling import Sample
from derive.algebra.reductions import Stopped
from derive.evaluation.evaluate import compiled, evaluate
from derive.evaluation.fields import REAL
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Point
from derive.forward_map import BATCH

if TYPE_CHECKING:
    from torch import Tensor

    from codegen.capture.driver import Captured
    from derive.forward_map import Layer

POINTS = 3
_PLACES, _SLOPE_PLACES = 24, 5
_STEP = Decimal(10) ** -20
_CLOSE, _CLOSE_ROUNDED = 1e-9, 1e-4
_SPREADS = (0.3, 0.05, 0.0)
Entries = Mapping[str, Callable[[tuple[int, ...]], Decimal]]


@dataclass
class GivenPoint(Point):
    """A point of evaluation whose entries come from given tensors."""

    entries: Entries = field(default_factory=dict)
    whole: Mapping[str, Any] = field(default_factory=dict)

    def draw(self, name: str, place: tuple[int, ...], positive: bool = False) -> Decimal:
        """Return the given entry."""
        return self.entries[name](place)

    def bits(self, name: str, place: tuple[int, ...]) -> int:
        """Return the given integer."""
        return int(self.whole[name][place])


@dataclass(frozen=True)
class Moved:
    """A module's tensors at a random point, and its output there."""

    state: Mapping[str, Tensor]
    inputs: Sequence[Any]
    output: Tensor


def prove(captured: Captured, fitter: Fitter) -> None:
    """Compare a layer with its module; raise CaptureError if they differ."""
    chosen = sorted(captured.samples, key=lambda s: sum(v * v for v in s.sizes.values()))[:POINTS]
    for sample in chosen:
        point = fitter.points[captured.samples.index(sample)]
        compare(captured, sample, dict(point))


def compare(captured: Captured, sample: Sample, sizes: Mapping[Any, int]) -> None:
    """Compare a layer with its module at one point, by value and by slope."""
    moved, sizes = moved_module(sample), {BATCH.size: 1, **sizes}
    tensors = tensors_at(captured, sample, moved)
    with REAL.context():
        try:
            _compare(captured, sample, sizes, moved, tensors)
        except NotEvaluable as problem:
            raise refuse(
                f"the captured layer has no value at {_words(sizes)}: {problem}", "give other example inputs"
            ) from problem


def _compare(
    captured: Captured, sample: Sample, sizes: Mapping[Any, int], moved: Moved, tensors: Mapping[str, Tensor]
) -> None:
    layer, close = captured.layer, _CLOSE_ROUNDED if _rounds(sample) else _CLOSE
    point = point_at(layer, sizes, tensors)
    places = places_of(captured, moved.output, sizes)
    output = moved.output.detach()
    picked = random.Random(0).sample(places, min(_PLACES, len(places)))
    scale = max(1.0, float(output.abs().max()))
    for place, own in picked:
        value, expected = _value(layer, place, point), float(output[own])
        if not abs(float(value) - expected) <= close * scale:
            raise _differs(captured, f"value at {own}", float(value), expected, sizes)
    weighted = [(p, o, Decimal(random.Random(str(o)).randint(50, 150)) / 100) for p, o in picked[:_SLOPE_PLACES]]
    before = sum(w * _value(layer, p, point) for p, _, w in weighted)
    total = sum(moved.output[o] * float(w) for _, o, w in weighted)
    for parameter in layer.parameters:
        path = captured.paths[parameter.name]
        expected_slope, direction = _slope(total, moved.state[path])
        if any(d.expression.has(Stopped) for d in (*layer.definitions, layer.output)):
            moving = point.nudged(parameter.name)
            along = direction.reshape(tensors[parameter.name].shape)
            slope = float(sum(w * _along(layer, p, moving, along) for p, _, w in weighted))
        else:
            along = direction.reshape(tensors[parameter.name].shape)
            shifted = point_at(layer, sizes, tensors, {parameter.name: along})
            after = sum(w * _value(layer, p, shifted) for p, _, w in weighted)
            slope = float((after - before) / _STEP)
        if not abs(slope - expected_slope) <= 100 * close * max(1.0, abs(expected_slope)):
            raise _differs(captured, f"slope with respect to {path}", slope, expected_slope, sizes)


def _value(layer: Layer, place: tuple[int, ...], point: Point) -> Any:
    return evaluate(layer.output.expression, dict(zip(layer.output.indices, place, strict=True)), point)


def _along(layer: Layer, place: tuple[int, ...], moving: Point, direction: Tensor) -> Decimal:
    """Return the output's slope along a direction of a parameter, by dual numbers; detached values stay fixed."""
    slopes = compiled(layer.output.expression)(dict(zip(layer.output.indices, place, strict=True)), moving)[1] or {}
    return sum((Decimal(v) * Decimal(float(direction[key[1]])) for key, v in slopes.items()), Decimal(0))


def _slope(total: Any, parameter: Tensor) -> tuple[float, Tensor]:
    """Return the slope of ``total`` along a random direction of a parameter, and the direction."""
    import torch

    generator = torch.Generator().manual_seed(parameter.numel())
    direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(total, parameter, retain_graph=True, allow_unused=True)
    return (0.0 if gradient is None else float((gradient * direction).sum())), direction


def point_at(
    layer: Layer, sizes: Mapping[Any, int], tensors: Mapping[str, Tensor], shift: Mapping[str, Tensor] | None = None
) -> GivenPoint:
    """Return the point at which tensors have these entries, some of them shifted by a small step."""
    point = GivenPoint(0, dict(sizes), REAL, {d.base: d for d in layer.definitions})
    point.whole = tensors
    point.entries = {name: _reader(value, (shift or {}).get(name)) for name, value in tensors.items()}
    return point


def _reader(value: Tensor, shift: Tensor | None) -> Callable[[tuple[int, ...]], Decimal]:
    rows = value.detach().double()

    def entry(place: tuple[int, ...]) -> Decimal:
        """Return an entry as an exact number; raise NotEvaluable for a place outside the tensor.

        The evaluator may read such a place as a factor of a term; it then evaluates the whole term, guards first.
        """
        if not all(0 <= k < length for k, length in zip(place, rows.shape, strict=True)):
            raise NotEvaluable(f"there is no entry {place} of a tensor of shape {tuple(rows.shape)}")
        found = Decimal(float(rows[place]))
        return found if shift is None else found + _STEP * Decimal(float(shift[place]))

    return entry


def places_of(
    captured: Captured, output: Tensor, sizes: Mapping[Any, int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield each place of the layer's output with the corresponding place of the module's."""
    indices = captured.layer.output.indices
    lengths = [_number(i.size, sizes) for i in indices]
    names = [i.name for i in indices]
    virtual = names and not any(names[0] in axis for axis in captured.axes)
    found = []
    for place in itertools.product(*(range(1 if virtual and k == 0 else n) for k, n in enumerate(lengths))):
        at = dict(zip(names, zip(place, lengths, strict=True), strict=True))
        own = []
        for axis in captured.axes:
            total = 0
            for name in axis:
                total = total * at[name][1] + at[name][0]
            own.append(total)
        found.append((place, tuple(own)))
    return found


def _number(size: Expr, sizes: Mapping[Any, int]) -> int:
    return int(size.xreplace({s: sympy.Integer(v) for s, v in sizes.items()}))


def tensors_at(captured: Captured, sample: Sample, moved: Moved) -> dict[str, Tensor]:
    """Return the values of the layer's tensors in a moved module; an unbatched input gets a batch of one."""
    found: dict[str, Tensor] = {}
    given = {(g.kind, g.path): g for g in sample.program.given}
    inputs = [g.path for g in sample.program.given if g.kind == "input"]
    for tensor in (*captured.layer.inputs, *captured.layer.parameters):
        path, kind = captured.paths[tensor.name], captured.read.kinds[tensor.name]
        if kind == "input":
            value = moved.inputs[inputs.index(path)]
        elif kind == "constant":
            value = given[kind, path].value
        else:
            value = moved.state[path]
        missing = len(tensor.axes) - value.dim()
        found[tensor.name] = value.reshape((*(1,) * missing, *value.shape))
    return found


def moved_module(sample: Sample) -> Moved:
    """Return a sample's module at a random point near its own parameters, where its output is finite."""
    import torch

    made = sample.program.made
    for spread in _SPREADS:
        with in_double():
            generator = torch.Generator().manual_seed(1)

            def near(value: Tensor, spread: float = spread, generator: Any = generator) -> Tensor:
                """Return a tensor with noise on its real entries."""
                if not value.is_floating_point():
                    return value
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                return value.detach() + spread * noise

            state = {n: near(p).requires_grad_(p.requires_grad) for n, p in made.module.named_parameters()}
            buffers = {n: b.detach().clone() for n, b in made.module.named_buffers()}
            there = made.changed(near)
            results = [
                torch.func.functional_call(
                    made.module,
                    ({**state, **{n: b.clone() for n, b in buffers.items()}},),
                    tuple(there.positional),
                    dict(there.named),
                )
                for _ in range(2)
            ]
            output, again = map(_first, results)
        if not torch.equal(output.isfinite(), again.isfinite()) or not torch.equal(
            output.nan_to_num(), again.nan_to_num()
        ):
            raise refuse(
                f"{type(made.module).__name__} returns different numbers when called again with the same inputs",
                "forward must not change what it reads, nor draw random numbers",
            )
        if torch.isfinite(output).all():
            aliases = dict(made.module.named_parameters(remove_duplicate=False))
            known = {id(p): state[n] for n, p in made.module.named_parameters()}
            tied = {n: known[id(p)] for n, p in aliases.items()}
            original = dict(made.module.named_buffers(remove_duplicate=False))
            return Moved({**original, **tied}, there.flat, output)
    raise refuse("the module returns non-finite numbers for its example inputs", "give other example inputs")


def _first(result: Any) -> Tensor:
    import torch

    flat = [result]
    while flat:
        value = flat.pop(0)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value
        if isinstance(value, Mapping):
            flat = [*value.values(), *flat]
        elif isinstance(value, tuple | list):
            flat = [*value, *flat]
    raise refuse("the module's forward returns no tensor of real numbers", "return the output as a tensor")


def _rounds(sample: Sample) -> bool:
    """Return whether the module itself casts to a type of fewer digits."""
    import torch

    for node in sample.program.nodes:
        dtype = node.arguments.get("dtype")
        if node.operator in ("aten.to", "aten._to_copy") and dtype in (torch.float32, torch.float16, torch.bfloat16):
            return True
    return False


def _differs(captured: Captured, what: str, ours: float, theirs: float, sizes: Mapping[Any, int]) -> CaptureError:
    return refuse(
        f"the captured layer differs from the module: {what} is {ours:.12g}, the module's {theirs:.12g}, "
        f"at {_words(sizes)}",
        "forward must depend only on its inputs and parameters; if it does, please report this as a bug",
    )


def _words(sizes: Mapping[Any, int]) -> str:
    return ", ".join(f"{s}={v}" for s, v in sizes.items()) or "its one size"
