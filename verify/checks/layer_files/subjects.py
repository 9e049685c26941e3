"""Subjects of a layer from a file: its own formula, and each generated map on each backend."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import sympy
import torch
from sympy import Expr
from torch import Tensor, nn

from derive.forward_map import BATCH, Layer
from derive.properties import energy_symbol
from derive.record import CancellingMap
from verify.checks.cases import Case, Draw, Laid, Place, Source, Subject
from verify.checks.layer_files.formula import Formula
from verify.checks.layer_files.package import LayerFile
from verify.checks.layer_files.sizes import draw_sizes
from verify.checks.twins import Twin

FORMULA = "formula"
_TRIES = 30
Named = Mapping[str, Tensor]


def subjects(file: LayerFile) -> list[Subject]:
    """Return the subject of the layer itself, and one for each class and target in the package."""
    layer = file.layer
    assert layer is not None
    found = [_formula(layer)]
    if file.refusal:
        return found
    targets = list(file.manifest["targets"])
    sources = [Source(m.mapped, m) for m in file.derivation.solutions]
    found += [_class(file, s, t) for s in sources if s.mapped.name in file.classes for t in targets]
    if layer.name in file.classes:
        found += [_class(file, Source(layer), target) for target in targets]
    return found


def _formula(layer: Layer) -> Subject:
    """The uncorrected layer as its formula: autograd and SGD are compared with its derivation."""

    def draw(random: Draw, kappa: float) -> Case:
        """Return the formula as a module with random sizes."""

        def module(sizes: dict[str, int]) -> nn.Module:
            shapes = {p.name: shape(p.axes, sizes) for p in layer.parameters}
            return Twin(layer, lambda v: Formula(layer, v, {}, sizes).output(), shapes)

        return _instance(random, layer, module, {})

    return Subject(layer.name, layer.name, lambda: Source(layer), draw, backend=FORMULA)


def _class(file: LayerFile, source: Source, backend: str) -> Subject:
    """A class of the package on one backend: for a map, or for the layer itself, which has no kappa."""
    layer, found = source.mapped, source.found

    def draw(random: Draw, kappa: float) -> Case:
        """Return the generated module with random sizes and a kappa above the minimum for these sizes."""
        made: dict[str, float] = {}

        def module(sizes: dict[str, int]) -> nn.Module:
            if found is not None:
                made["kappa"] = random.kappa(float(_at(found.kappa_above, sizes)))
            return build(file, layer, backend, sizes, **made)

        return _instance(random, layer, module, made)

    integers = {t.name for t in layer.inputs if t.values is not None}
    names = (t.name for t in (*layer.inputs, *layer.parameters))
    own = "module" if found is None else ""
    return Subject(
        name=layer.name,
        layer=layer.name if found is None else found.layer.name,
        source=lambda: source,
        draw=draw,
        variant=own if backend == "torch" else backend,
        backend=backend,
        form="" if found is None else found.name,
        reference=lambda tensors, case: value(source, tensors, case),
        by=tuple(name for name in names if name not in integers),
        types=("float64", "float32", "bfloat16", "float16") if backend == "torch" else (),
    )


def build(file: LayerFile, layer: Layer, backend: str | None, sizes: Mapping[str, int], **given: Any) -> nn.Module:
    """Return the package's module for a map, or for the layer itself, on a backend."""
    made = file.class_of(layer)
    wanted = {name: sizes[name] for name in inspect.signature(made).parameters if name in sizes}
    module = made(**wanted, backend=backend, **given)
    assert isinstance(module, nn.Module)
    return module


def value(source: Source, tensors: Named, case: Case) -> Tensor:
    """Return a map's output by its formula; a scale is 0 where the energy is 0."""
    found = source.found
    energy = found.energy.name if found is not None and singular(found) else ""
    return Formula(source.mapped, tensors, case.scalars, case.sizes, energy).output()


def plain_value(source: Source, tensors: Named, case: Case) -> Tensor:
    """Return the output of the layer itself, without a map."""
    layer = source.mapped if source.found is None else source.found.layer
    return Formula(layer, tensors, case.scalars, case.sizes).output()


@cache
def singular(found: CancellingMap) -> bool:
    """Return whether a scale of the map is undefined at energy zero."""
    return any(not scale.subs(energy_symbol, sympy.S.Zero).is_finite for _, scale in found.scales)


def _instance(random: Draw, layer: Layer, make: Any, scalars: Mapping[str, float]) -> Case:
    """Return a random instance at which the map is defined: every sample has positive energy.

    Inputs are normal; if the formula is undefined there (roots, logarithms), positive inputs are tried.
    """
    for tried in range(_TRIES):
        sizes = draw_sizes(layer, random)
        module = random.real(make(sizes))
        inputs = draw_inputs(layer, random, sizes, positive=tried % 3 != 0 and tried > 3)
        output = layer.output.indices
        case = Case(
            module=Laid(module, _call),
            inputs=inputs,
            g=random.gradient(*shape(tuple(i.size for i in output), sizes)),
            places={p.name: Place(p.name) for p in layer.parameters},
            scalars=dict(scalars),
            sizes=sizes,
            eta=random.power(-1, 3),
        )
        with torch.no_grad():
            z = Formula(layer, {**inputs, **case.parameters()}, case.scalars, sizes).output()
        if bool(torch.isfinite(z).all()):
            return case
    raise ValueError(
        f"no inputs found at which {layer.name} is defined; its formula may be undefined for all real inputs"
    )


def draw_inputs(layer: Layer, random: Draw, sizes: Mapping[str, int], positive: bool = False) -> dict[str, Tensor]:
    """Return random inputs: real ones normal with a random scale, or positive; integers over their whole range."""
    found = {}
    for t in layer.inputs:
        axes = shape(t.axes, sizes)
        if t.values is not None:
            found[t.name] = torch.randint(int(_at(t.values, sizes)), axes, generator=random.generator).to(random.device)
            continue
        x = random.power(-1, 0.5) * random.normal(*axes)
        found[t.name] = x.abs() + 0.1 if positive else x
    return found


def shape(axes: tuple[Expr, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the lengths of axes."""
    return tuple(int(_at(axis, sizes)) for axis in axes)


def _at(expression: Expr, sizes: Mapping[str, int]) -> Expr:
    expression = sympy.sympify(expression)
    return expression.subs({s: sizes[s.name] for s in expression.free_symbols})


def _call(module: nn.Module, *inputs: Tensor) -> Tensor:
    z: Tensor = module(*inputs)
    return z


def batch_of(case: Case) -> int:
    """Return the number of samples of an instance."""
    return case.sizes[BATCH.size.name]
