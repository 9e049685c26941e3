"""The update kernel of a composition: the contribution of each part, split into the last part's and the upstream rest.

    K = K_1 + K_2 + ...          one for the parameters of each part
    K = own + upstream           own: the last part, its input held fixed; upstream: the parts below move its input
    upstream = J Theta J'        J = dz/dx at the last part's input x, Theta the kernel of x (theory, section 9)

To first order in eta; every part of the sum is derived and checked as a step of its own.
"""

from __future__ import annotations

from dataclasses import replace

from sympy import Add, Expr, IndexedBase

from derive.algebra.differentiate import differentiate, expand_definitions
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, PartialDerivative, rename, tensor
from derive.algebra.normal import normalise
from derive.algebra.present import presentable
from derive.deriver import Deriver
from derive.forward_map import Definition, Group, Layer
from derive.record import Step


def part_steps(deriver: Deriver) -> list[Step]:
    """Return the steps that split a composition's kernel; none where fewer than two parts have parameters."""
    groups = [Group(g.name, _learned(deriver, g), g.fed) for g in deriver.layer.groups]
    groups = [g for g in groups if g.parameters]
    if len(groups) < 2:
        return []
    kernels = [_kernel_of(deriver, group, f"{number}") for number, group in enumerate(groups, 1)]
    steps = [
        deriver.step(
            f"part-{number}",
            f"the part of the kernel that the parameters of `{group.name}` carry: {', '.join(group.parameters)}",
            kernel.entry,
            _products(deriver, group.parameters),
            kernel.expression,
        )
        for number, (group, kernel) in enumerate(zip(groups, kernels, strict=True), 1)
    ]
    total = Add(*(kernel.entry for kernel in kernels))
    rule = "the parts add up; the last is the layer's own, the others move its input"
    steps.append(deriver.step("own-and-upstream", rule, deriver.kernel_entry, deriver.products, total, *kernels))
    return [*steps, *_upstream(deriver, groups)]


def _learned(deriver: Deriver, group: Group) -> tuple[str, ...]:
    return tuple(p.name for p in deriver.parameters if p.name in group.parameters)


def _kernel_of(deriver: Deriver, group: Group, mark: str) -> Definition:
    """Return the kernel of some parameters as a definition ``K_1[s, i, s', i'] = ...``."""
    total = Add(*(deriver.kernel_by_parameter[name] for name in group.parameters))
    name = f"{deriver.kernel_entry.base.label}_{mark}"
    return Definition(name, _places(deriver), presentable(total, deriver.layer.scope))


def _places(deriver: Deriver) -> tuple[Index, ...]:
    return (*deriver.output.indices, *deriver.primes.values())


def _products(deriver: Deriver, names: tuple[str, ...]) -> Expr:
    here, there = deriver.output.entry, rename(deriver.output.entry, deriver.primes)
    entries = [deriver.entries[name] for name in names]
    return Add(*(IndexedSum(PartialDerivative(here, e) * PartialDerivative(there, e), *e.indices) for e in entries))


def _upstream(deriver: Deriver, groups: list[Group]) -> list[Step]:
    """Return the step ``upstream = J Theta J'``; none if the parts below reach the output around the last input too."""
    fed, layer = groups[-1].fed, deriver.layer
    base = tensor(fed) if fed else None
    if base is None or base not in layer.scope:
        return []
    scope = {b: d for b, d in layer.scope.items() if b != base}
    below = tuple(name for group in groups[:-1] for name in group.parameters)
    left = expand_definitions(layer.output.expression, scope).atoms(IndexedBase)
    if left & {tensor(name) for name in below}:
        return []
    theta = _theta(deriver, layer.scope[base], below)
    here = tuple(i.fresh() for i in layer.scope[base].indices)
    there = tuple(i.fresh() for i in here)
    slope = normalise(differentiate(layer.output.expression, base[here], scope))
    other = rename(rename(slope, deriver.primes), dict(zip(here, there, strict=True)))
    after = presentable(normalise(IndexedSum(slope * other * theta.base[(*here, *there)], *here, *there)), layer.scope)
    target = tensor(f"{deriver.kernel_entry.base.label}_up")[_places(deriver)]
    rule = f"the slope by the last part's input `{fed}` on both sides of the kernel of that input"
    return [deriver.step("upstream", rule, target, _products(deriver, below), after, theta)]


def _theta(deriver: Deriver, fed: Definition, below: tuple[str, ...]) -> Definition:
    """Return the kernel of the last part's input, over the parameters below it."""
    layer = deriver.layer
    earlier = layer.definitions[: [d.name for d in layer.definitions].index(fed.name)]
    prefix: Layer = replace(
        layer,
        name=f"{layer.name}/below",
        parameters=tuple(p for p in layer.parameters if p.name in below),
        definitions=earlier,
        output=fed,
        groups=(),
    )
    inner = Deriver(prefix)
    names = {t.name for t in (*layer.inputs, *layer.parameters)} | {d.name for d in layer.definitions}
    name = next(n for n in ("Theta", "Theta_1", "Theta_2") if n not in names)
    return Definition(name, _places(inner), inner.cross_terms if not inner.units else inner.kernel)
