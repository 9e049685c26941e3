"""A layer as the engine sees it: names, axes and a forward map, without anything derived from them.

Index convention: every input, intermediate and output has the batch index ``s`` (axis ``B``) in front; parameters
do not. ``assemble`` adds it, so that a forward map is written for one sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import sympy
from sympy import Expr, IndexedBase, Symbol

from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import Binder, Within, rename, tensor
from derive.errors import UsageError

BATCH = Index("s", size_symbol("B"))


class LayerError(UsageError):
    """A forward map that cannot be read, assembled or derived; the text names the value, the cause and the fix."""


@dataclass(frozen=True)
class Tensor:
    """A declared tensor: its name, the length of each axis, and for integer tensors the range of their entries."""

    name: str
    axes: tuple[Expr, ...]
    values: Expr | None = None

    @property
    def base(self) -> IndexedBase:
        """The SymPy object whose ``base[i, j]`` is an entry."""
        return tensor(self.name, values=self.values)


@dataclass(frozen=True)
class Definition:
    """``name[indices] = expression``: an intermediate or the output of a forward map."""

    name: str
    indices: tuple[Index, ...]
    expression: Expr

    @property
    def base(self) -> IndexedBase:
        """The SymPy object whose ``base[i, j]`` is an entry."""
        return tensor(self.name)

    @property
    def entry(self) -> Expr:
        """The defined entry at the definition's own indices (the bare symbol for a scalar)."""
        return self.base[self.indices]

    def at(self, indices: tuple[Expr, ...]) -> Expr:
        """Return the defining expression at other indices, capture-free."""
        return rename(self.expression, dict(zip(self.indices, indices, strict=True)))


@dataclass(frozen=True)
class Group:
    """Parameters of one part of a composition; ``fed`` is the intermediate that is the part's input, if it has one."""

    name: str
    parameters: tuple[str, ...]
    fed: str = ""


@dataclass(frozen=True)
class Layer:
    """A forward map ``output = F(parameters; inputs)`` through named intermediates, at symbolic sizes.

    ``definitions`` are in order of use: each may mention inputs, parameters and earlier definitions.
    ``scalars`` are positive scalar symbols that are settings, not parameters (for example ``kappa``). ``parts`` are
    layers that each have an update of their own, such as the four parts of attention; ``groups`` are the parameters of
    each part of a composition, in order.
    """

    name: str
    title: str
    sizes: tuple[Symbol, ...]
    inputs: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    definitions: tuple[Definition, ...]
    output: Definition
    scalars: tuple[Symbol, ...] = ()
    notes: tuple[str, ...] = ()
    parts: tuple[Layer, ...] = ()
    groups: tuple[Group, ...] = ()

    @cached_property
    def scope(self) -> dict[IndexedBase, Definition]:
        """The intermediates by their tensor."""
        return {definition.base: definition for definition in self.definitions}

    @cached_property
    def parametric_scope(self) -> dict[IndexedBase, Definition]:
        """The intermediates that depend on a parameter, by their tensor."""
        moving = {p.base for p in self.parameters}
        found: dict[IndexedBase, Definition] = {}
        for definition in self.definitions:
            if definition.expression.atoms(IndexedBase) & moving:
                found[definition.base] = definition
                moving.add(definition.base)
        return found

    def parameter(self, name: str) -> Tensor:
        """Return the parameter of that name, or raise ``LayerError``."""
        for candidate in self.parameters:
            if candidate.name == name:
                return candidate
        known = ", ".join(p.name for p in self.parameters) or "none"
        raise LayerError(f"layer {self.name!r} has no parameter {name!r}; its parameters are: {known}")

    def with_output(self, expression: Expr, **changes: object) -> Layer:
        """Return a layer whose output is ``expression`` at the same indices."""
        output = replace(self.output, expression=expression)
        return replace(self, output=output, **changes)  # type: ignore[arg-type]


def assemble(
    name: str,
    *,
    title: str = "",
    sizes: tuple[Symbol, ...],
    inputs: tuple[Tensor, ...],
    parameters: tuple[Tensor, ...],
    definitions: tuple[Definition, ...],
    output: Definition,
    batched: bool = False,
    notes: tuple[str, ...] = (),
) -> Layer:
    """Return the layer with the batch index in front and range guards where an entry may lie outside its tensor.

    An entry outside its tensor is zero (zero padding). With ``batched`` the forward map names the batch itself.
    """
    per_sample = () if batched else tuple(t.name for t in inputs) + tuple(d.name for d in (*definitions, output))
    axes = {t.name: t.axes for t in (*inputs, *parameters)}
    axes |= {d.name: tuple(i.size for i in d.indices) for d in definitions}

    def finish(definition: Definition) -> Definition:
        indices = definition.indices if batched else (BATCH, *definition.indices)
        return Definition(definition.name, indices, _read(definition.expression, axes, per_sample))

    lead = () if batched else (BATCH.size,)
    return Layer(
        name=name,
        title=title or name.replace("-", " "),
        sizes=sizes if batched else (BATCH.size, *sizes),
        inputs=tuple(Tensor(t.name, (*lead, *t.axes), t.values) for t in inputs),
        parameters=parameters,
        definitions=tuple(finish(d) for d in definitions),
        output=finish(output),
        notes=notes,
    )


def _read(expression: Expr, axes: dict[str, tuple[Expr, ...]], per_sample: tuple[str, ...]) -> Expr:
    """Guard every entry that may be out of range, and add the batch index in front of tensors that vary by sample."""
    if isinstance(expression, sympy.Indexed):
        name = str(expression.base.label)
        indices = tuple(_read(i, axes, per_sample) for i in expression.indices)
        guards = [Within(i, size) for i, size in zip(indices, axes[name], strict=True)]
        lead = (BATCH,) if name in per_sample else ()
        return sympy.Mul(expression.base[(*lead, *indices)], *guards)
    if isinstance(expression, Binder):
        return expression.func(_read(expression.body, axes, per_sample), *expression.bound)
    if not expression.args or isinstance(expression, IndexedBase):
        return expression
    return expression.func(*(_read(a, axes, per_sample) for a in expression.args))
