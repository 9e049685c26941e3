"""Why PatchNorm is no normalisation of the image followed by an ordinary convolution, as a derivation.

Suppose a map n of the image and a divisor s of each position gave ``conv(n(x), W) = conv(x, W) / s`` for every kernel
W; with centring, ``conv(n(x), W) = conv(x - m[p], W) / s`` with the mean m of the patch at each position p.

    1. the coefficient of a kernel entry on both sides     n[read] = (x[read] - m[p]) / s[p]   for each entry of a patch
    2. two overlapping patches read the same pixel         x[read] (1/s[p] - 1/s[p']) = m[p]/s[p] - m[p']/s[p']
    3. without m, s is constant on overlapping patches     but E[p] differs from E[p'] for an image of one pixel
       with m, m[p]/s[p] is where the pixel is zero        but m[p] differs from m[p'] = 0 for an image of one pixel

The steps are checked like those of any derivation. The patches at ``p`` and ``p + dilation`` overlap: they read the
same pixel with kernel entries ``k`` and ``k - stride``.
"""

from __future__ import annotations

import sympy
from sympy import Expr, Indexed, KroneckerDelta

from derive.algebra.differentiate import carry_out
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, PartialDerivative, map_entries, rename, tensor
from derive.algebra.normal import normalise
from derive.backward_pass import entry_of, free_letters
from derive.forward_map import BATCH, Definition, Layer, LayerError
from derive.record import Step
from derive.update import effective_update


def overlapping(layer: Layer) -> bool:
    """Return whether the layer slides a kernel along its last output axis: whether its positions share pixels.

    Beside the kernel it may read a patch's mean, and nothing else.
    """
    return _read(layer) is not None and all(_is_mean(d, layer) for d in layer.definitions)


def _is_mean(definition: Definition, layer: Layer) -> bool:
    """Whether an intermediate is a number a position: a constant times a sum over the patch there."""
    constant, total = definition.expression.as_independent(IndexedSum)
    images = {t.base for t in layer.inputs}
    read = {e.base for e in total.atoms(Indexed)}
    return isinstance(total, IndexedSum) and not constant.atoms(Index) and read == images & read and bool(read)


def inseparability(layer: Layer) -> tuple[Step, ...]:
    """Return the steps of the contradiction; raise LayerError for a layer without overlapping patches."""
    if not overlapping(layer):
        raise LayerError(
            f"{layer.name!r} slides no kernel over its input: inseparability is a statement on convolutions"
        )
    return (_same_reading(layer), _shared_pixel(layer), *_one_pixel(layer))


def _centred_away(layer: Layer, moved: dict[Index, Expr]) -> Expr:
    """Return what centring takes away from each entry of a patch, its mean; 0 without centring."""
    return sympy.Add(*(rename(d.entry, moved) for d in layer.definitions))


def _read(layer: Layer) -> Indexed | None:
    """Return the input entry whose last index is ``stride p + dilation k - padding``, if the forward map has one."""
    last = layer.output.indices[-1]
    inputs = {t.base for t in layer.inputs}
    for entry in sorted(layer.output.expression.atoms(Indexed), key=str):
        position = entry.indices[-1]
        if entry.base in inputs and last in position.free_symbols and len(position.atoms(Index)) == 2:
            return entry
    return None


def _slide(layer: Layer) -> tuple[Indexed, Index, Index, Expr, Expr]:
    """Return the entry read, the position p, the kernel index k, and their coefficients: stride and dilation."""
    entry = _read(layer)
    assert entry is not None
    p = layer.output.indices[-1]
    (k,) = entry.indices[-1].atoms(Index) - {p}
    position = sympy.expand(entry.indices[-1])
    return entry, p, k, position.coeff(p), position.coeff(k)


def _weight_part(layer: Layer) -> Expr:
    """Return the part of the output carried by the kernel."""
    terms = [t for t in sympy.Add.make_args(layer.output.expression) if t.has(tensor("W"))]
    return sympy.Add(*terms)


def _divisor(layer: Layer) -> Expr:
    return tensor("divisor")[tuple(i for i in layer.output.indices if i in _positions(layer))]


def _positions(layer: Layer) -> set[Index]:
    """Return the batch index and the spatial output indices."""
    entry = _read(layer)
    assert entry is not None
    return {BATCH} | {i for i in layer.output.indices if not i.is_zero and entry.has(i) and i not in entry.indices}


def _same_reading(layer: Layer) -> Step:
    """If the two convolutions agree for every kernel, the coefficients of each kernel entry agree."""
    entry = entry_of(layer.parameter("W"), free_letters(layer))
    part = _weight_part(layer)
    image, means = tensor("n"), {d.base: sympy.S.Zero for d in layer.definitions}
    ordinary = map_entries(part, lambda e: image[e.indices] if e.base == tensor("x") else means.get(e.base, e))
    before = PartialDerivative(ordinary - part / _divisor(layer), entry)
    after = normalise(carry_out(before, {}))
    rule = "the coefficient of a kernel entry: n and x / divisor must agree wherever the patch reads"
    return Step(f"{layer.name}/inseparable-reading", rule, before, before, after, layer.definitions)


def _shared_pixel(layer: Layer) -> Step:
    """Patches at p and p + dilation read one pixel; both readings of n must agree, so the divisors must."""
    read, p, k, stride, dilation = _slide(layer)
    there = rename(read, {p: p + dilation, k: k - stride})
    divisor = _divisor(layer)
    moved = rename(divisor, {p: p + dilation})
    mean, other = _centred_away(layer, {}), _centred_away(layer, {p: p + dilation})
    before = (read - mean) / divisor - (there - other) / moved
    after = read * (1 / divisor - 1 / moved) - (mean / divisor - other / moved)
    rule = "what entry k reads at p, entry k - stride reads at p + dilation (patches overlap where K > stride)"
    return Step(f"{layer.name}/inseparable-overlap", rule, before, before, after, layer.definitions)


def _one_pixel(layer: Layer) -> tuple[Step, Step]:
    """Self factors, or means, of two overlapping patches differ for an image that is zero but for its first pixel."""
    factor, constant = _seen_by_a_patch(layer)
    read, p, _, _, dilation = _slide(layer)
    image = next(t for t in layer.inputs if t.base == read.base)
    spots = (BATCH, *(Index(f"pixel{k}", axis) for k, axis in enumerate(image.axes[1:])))
    pixels = [
        spot for spot, at in zip(spots, read.indices, strict=True) if at.atoms(Index) & _positions(layer) - {BATCH}
    ]
    first = Definition(image.name, spots, sympy.Mul(*(KroneckerDelta(spot, 0) for spot in pixels)))
    seen = normalise(IndexedSum(sympy.S.One, *(i for i in read.indices if isinstance(i, Index) and _summed(layer, i))))
    corner = {s: sympy.S.Zero for s in layer.sizes if not s.is_positive}
    corner |= {i: sympy.S.Zero for i in _positions(layer) - {BATCH}}
    here, there = rename(factor, corner), rename(factor, {**corner, p: dilation})
    blank = normalise(map_entries(there, lambda e: sympy.S.Zero if e.base == image.base else e))  # of the bias
    rule = "an image of one pixel, unpadded: "
    return (
        Step(
            f"{layer.name}/inseparable-first",
            rule + "the first patch sees it",
            here,
            here,
            constant * seen + blank,
            (first,),
        ),
        Step(
            f"{layer.name}/inseparable-second",
            rule + "an overlapping one does not",
            there,
            there,
            blank,
            (first,),
        ),
    )


def _seen_by_a_patch(layer: Layer) -> tuple[Expr, Expr]:
    """Return what tells patches apart, the mean if there is one or the self factor, and what a pixel adds to it."""
    for mean in layer.definitions:
        return mean.expression, mean.expression.as_independent(IndexedSum)[0]
    return effective_update(layer).self_factor.expression, sympy.S.One


def _summed(layer: Layer, index: Index) -> bool:
    return index not in layer.output.indices
