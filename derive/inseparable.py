"""Why a map inside a convolution is not a map of its input followed by an ordinary convolution, as a derivation.

Suppose that a map n of the input and a divisor for each position gave ``conv(n(x), W) = conv(x, W) / divisor`` for
every kernel W; with centring, ``conv(n(x), W) = conv(x - m[p], W) / divisor`` with the mean m of the patch at p.

    1. the coefficient of a kernel entry on both sides     n[read] = (x[read] - m[p]) / s[p]   for each entry of a patch
    2. two overlapping patches read the same pixel         x[read] (1/s[p] - 1/s[p']) = m[p]/s[p] - m[p']/s[p']
    3. without m, s is constant on overlapping patches     but E[p] differs from E[p'] for an image of one pixel
       with m, they share m[p]/s[p] if the pixel is 0      but m[p] differs from m[p'] = 0 for an image of one pixel

How a layer reads its input is found, not declared: the derivative of its output with respect to a parameter entry must
be an entry of an input (linear reading), at a place that moves with an output index and with an index of the parameter.
The steps are checked like those of any derivation. Not covered: layers that read functions of their input (``tanh``).
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Add, Expr, Indexed, KroneckerDelta, Mul

from derive.algebra.differentiate import carry_out, differentiate
from derive.algebra.eliminate import is_guard
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, PartialDerivative, map_entries, rename, tensor
from derive.algebra.normal import normalise
from derive.backward_pass import entry_of, free_letters
from derive.export.text import text
from derive.family import split_by_parameter
from derive.forward_map import BATCH, Definition, Layer, LayerError, Tensor
from derive.record import Step
from derive.update import effective_update


@dataclass(frozen=True)
class _Window:
    """How a layer slides a parameter over an input.

    ``weight`` is the parameter's entry and ``part`` the part of the output that depends on it; it is multiplied by
    ``factor`` times ``read``. Along ``axis`` of the input it reads at ``a p + b k + c``; entry ``k + tap`` reads at
    ``p + step`` what entry ``k`` reads at ``p``. ``means`` are the intermediates that centring subtracts.
    """

    weight: Indexed
    part: Expr
    factor: Expr
    read: Indexed
    axis: int
    p: Index
    k: Index
    step: Expr
    tap: Expr
    means: tuple[Indexed, ...]


def overlapping(layer: Layer) -> bool:
    """Return whether the layer slides one parameter over an input, reads it linearly, and positions share pixels."""
    return _window(layer) is not None


def inseparability(layer: Layer) -> tuple[Step, ...]:
    """Return the steps of the contradiction; raise LayerError for a layer without overlapping patches."""
    window = _window(layer)
    if window is None:
        raise LayerError(
            f"{layer.name!r} does not slide a kernel over its unchanged input: inseparability is a statement about "
            "convolutions"
        )
    return (_same_reading(layer, window), _shared_pixel(layer, window), *_one_pixel(layer, window))


def _window(layer: Layer) -> _Window | None:
    """Return how the layer slides its one parameter over an input; None where it does not."""
    letters, inputs = free_letters(layer), {t.base for t in layer.inputs if t.values is None}
    found: list[_Window] = []
    for name, part in split_by_parameter(layer).items():
        weight = entry_of(layer.parameter(name), letters)
        terms = [_bare(t, layer) for t in Add.make_args(normalise(differentiate(part, weight, layer.scope)))]
        scaled = [t.as_independent(Indexed) for t in terms]
        reads = [(c, e) for c, e in scaled if isinstance(e, Indexed) and e.base in inputs and not c.atoms(Index)]
        means = [-t for t in terms if _is_mean(-t, layer)]
        if len(reads) == 1 and len(means) == len(terms) - 1 and (not means or reads[0][0] == 1):
            found += _slides(layer, weight, part, reads[0], tuple(means))
        elif not terms[0].is_number:
            return None  # another parameter reads the input in some other way: the argument does not apply
    return found[0] if len({window.weight for window in found}) == 1 else None


def _bare(term: Expr, layer: Layer) -> Expr:
    """Return a term without deltas and range guards, at the output's index where a delta joins it to another."""
    outer, joined = set(layer.output.indices), {}
    for delta in (f for f in Mul.make_args(term) if isinstance(f, KroneckerDelta)):
        inner = [i for i in delta.args if isinstance(i, Index) and i not in outer]
        if len(inner) == 1 and outer & set(delta.args):
            joined[inner[0]] = next(i for i in delta.args if i in outer)
    return rename(Mul(*(f for f in Mul.make_args(term) if not is_guard(f))), joined)


def _is_mean(entry: Expr, layer: Layer) -> bool:
    """Whether an entry is one number for each position: an intermediate, a constant times a sum over the patch."""
    definition = layer.scope.get(entry.base) if isinstance(entry, Indexed) else None
    if definition is None:
        return False
    constant, total = definition.expression.as_independent(IndexedSum)
    read = _bare(total.body, layer) if isinstance(total, IndexedSum) else constant
    images = {t.base for t in layer.inputs}
    return isinstance(read, Indexed) and read.base in images and not constant.atoms(Index)


def _slides(
    layer: Layer, weight: Indexed, part: Expr, read: tuple[Expr, Indexed], means: tuple[Indexed, ...]
) -> list[_Window]:
    """Return the ways in which neighbouring positions read one pixel: one for each axis of the input, last first."""
    found = []
    factor, entry = read
    for axis in reversed(range(len(entry.indices))):
        place = sympy.expand(entry.indices[axis])
        positions = [i for i in layer.output.indices if i != BATCH and place.has(i)]
        taps = [i for i in weight.indices if isinstance(i, Index) and place.has(i)]
        if len(positions) != 1 or len(taps) != 1:
            continue
        p, k = positions[0], taps[0]
        ratio = sympy.cancel(-place.coeff(k) / place.coeff(p))
        step, tap = sympy.fraction(ratio)
        if step.could_extract_minus_sign():
            step, tap = -step, -tap
        if step != 0 and not (k.size - sympy.Abs(tap)).is_nonpositive:
            found.append(_Window(weight, part, factor, entry, axis, p, k, step, tap, means))
    return found


def _positions(layer: Layer, window: _Window) -> set[Index]:
    """Return the batch index and the output indices that move the place read."""
    moving = {i for place in window.read.indices if not isinstance(place, Index) for i in place.atoms(Index)}
    return {BATCH} | {i for i in layer.output.indices if i in moving}


def _unused(layer: Layer, *wanted: str) -> str:
    used = {t.name for t in (*layer.inputs, *layer.parameters)} | {d.name for d in (*layer.definitions, layer.output)}
    used |= {str(s) for s in (*layer.sizes, *layer.scalars)}
    return next(name for name in wanted if name not in used)


def _divisor(layer: Layer, window: _Window) -> Expr:
    """Return the divisor of a position, an unknown tensor."""
    name = _unused(layer, "divisor", "divisor_2", "divisor_3")
    return tensor(name)[tuple(i for i in layer.output.indices if i in _positions(layer, window))]


def _same_reading(layer: Layer, window: _Window) -> Step:
    """If the two convolutions agree for every kernel, the coefficients of each kernel entry agree."""
    image = tensor(_unused(layer, "n", "n_x", "image"))
    means = {mean.base: sympy.S.Zero for mean in window.means}
    source = window.read.base
    ordinary = map_entries(window.part, lambda e: image[e.indices] if e.base == source else means.get(e.base, e))
    before = PartialDerivative(ordinary - window.part / _divisor(layer, window), window.weight)
    after = normalise(carry_out(before, {}))
    rule = (
        f"the coefficient of a kernel entry: `{image.label}` and `{source.label}` over the divisor must agree wherever "
        "a patch reads"
    )
    return Step(f"{layer.name}/inseparable-reading", rule, before, before, after, layer.definitions)


def _shared_pixel(layer: Layer, window: _Window) -> Step:
    """Neighbouring patches read one pixel; both readings of n must agree, so the divisors must."""
    p, k = window.p, window.k
    there = {p: p + window.step, k: k + window.tap}
    read, again = window.read, rename(window.read, there)
    divisor = _divisor(layer, window)
    moved, mean = rename(divisor, there), Add(*window.means)
    other = rename(mean, there)
    before = (read - mean) / divisor - (again - other) / moved
    after = read * (1 / divisor - 1 / moved) - (mean / divisor - other / moved)
    rule = (
        f"entry `{text(k + window.tap)}` reads at `{text(p + window.step)}` the pixel that entry `{k}` reads at `{p}`, "
        f"if the kernel has both entries (patches overlap if `{text(k.size)} > {text(sympy.Abs(window.tap))}`)"
    )
    return Step(f"{layer.name}/inseparable-overlap", rule, before, before, after, layer.definitions)


def _one_pixel(layer: Layer, window: _Window) -> tuple[Step, Step]:
    """Show that self factors, or means, of two overlapping patches differ for an image that is zero but for one pixel.

    The first patch reads that pixel with the kernel's first or last entry; its neighbour would need an entry beyond it.
    """
    factor, constant = _seen_by_a_patch(layer, window)
    image = next(t for t in layer.inputs if t.base == window.read.base)
    first = Definition(image.name, *_pixel(image, layer, window))
    settings = {s: sympy.S.Zero for s in layer.sizes if not s.is_positive}
    place = sympy.expand(rename(window.read.indices[window.axis], settings))
    edge = window.k.size - 1 if (window.tap * window.k.size).is_positive else sympy.S.Zero
    start = sympy.expand(-rename(place, {window.p: sympy.S.Zero, window.k: edge}) / place.coeff(window.p))
    corner = settings | {i: sympy.S.Zero for i in _positions(layer, window) - {BATCH, window.p}}
    here, there = (rename(factor, {**corner, window.p: at}) for at in (start, start + window.step))
    blank = normalise(map_entries(there, lambda e: sympy.S.Zero if e.base == image.base else e))  # of the bias
    channels = [i for i in window.read.indices if isinstance(i, Index) and i not in layer.output.indices]
    seen = constant * normalise(IndexedSum(sympy.S.One, *channels)) + blank
    rule = "an image of one pixel, unpadded: "
    return (
        Step(f"{layer.name}/inseparable-first", rule + "the first patch sees it", here, here, seen, (first,)),
        Step(f"{layer.name}/inseparable-second", rule + "an overlapping one does not", there, there, blank, (first,)),
    )


def _pixel(image: Tensor, layer: Layer, window: _Window) -> tuple[tuple[Index, ...], Expr]:
    """Return the indices of an image, and the expression that is 1 at its first pixel, in every channel."""
    spots = (BATCH, *(Index(f"pixel{k}", axis) for k, axis in enumerate(image.axes[1:])))
    moving = _positions(layer, window) - {BATCH}
    places = zip(spots, window.read.indices, strict=True)
    return spots, Mul(*(KroneckerDelta(spot, 0) for spot, at in places if at.atoms(Index) & moving))


def _seen_by_a_patch(layer: Layer, window: _Window) -> tuple[Expr, Expr]:
    """Return the quantity that differs between patches (the mean, or the self factor) and what one pixel adds to it."""
    for mean in window.means:
        expression = layer.scope[mean.base].at(mean.indices)
        return expression, expression.as_independent(IndexedSum)[0]
    return effective_update(layer).self_factor.expression, window.factor**2
