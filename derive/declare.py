"""Build a layer from declarations and formulas, whether they come from a file or a module.

``forward`` is how built-in layers are written; ``derive.spec`` reads the same from TOML.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sympy import Expr, IndexedBase, Integer, Symbol

from derive.algebra.index import Index
from derive.arithmetic import parse
from derive.excerpt import Excerpt, suggestion
from derive.expansion import MOST_SUMS, MOST_TERMS, Size, size_of
from derive.formula import parse_definition
from derive.forward_map import BATCH, Definition, Layer, Tensor, assemble
from derive.indexing import length
from derive.names import MOST_AXES, Named, Namespace, identifier


@dataclass(frozen=True)
class Declaration:
    """A declared tensor in text: name, axes (sizes or positive integers), range of the entries if they are integers."""

    name: Excerpt
    axes: tuple[Excerpt, ...]
    values: Excerpt | None = None


@dataclass(frozen=True)
class Declarations:
    """Everything that a layer's text declares; ``formulas`` are the intermediates in order, the output last.

    ``output`` and ``output_axes`` are the output's name and axes where they are declared; otherwise the last formula
    gives them. ``outputs`` are those of a layer with several, whose formulas come last, in the same order.
    """

    name: str
    sizes: tuple[Excerpt, ...]
    inputs: tuple[Declaration, ...]
    parameters: tuple[Declaration, ...]
    formulas: tuple[Excerpt, ...]
    output: Excerpt | None = None
    output_axes: tuple[Excerpt, ...] | None = None
    offsets: tuple[Excerpt, ...] = ()
    scalars: tuple[Excerpt, ...] = ()
    title: str = ""
    notes: tuple[str, ...] = ()
    batched: bool = False
    outputs: tuple[tuple[Excerpt, tuple[Excerpt, ...]], ...] = ()

    @property
    def targets(self) -> dict[int, tuple[Excerpt | None, tuple[Excerpt, ...] | None]]:
        """The declared name and axes of the tensors that formulas define, by the formula's number."""
        if not self.outputs:
            return {len(self.formulas) - 1: (self.output, self.output_axes)}
        return dict(enumerate(self.outputs, len(self.formulas) - len(self.outputs)))


def forward(
    name: str,
    *,
    sizes: str,
    inputs: Mapping[str, str],
    parameters: Mapping[str, str],
    formulas: Sequence[str],
    axes: str | None = None,
    values: Mapping[str, str] | None = None,
    offsets: str = "",
    scalars: str = "",
    title: str = "",
    notes: Sequence[str] = (),
    batched: bool = False,
) -> Layer:
    """Return a layer from its forward map: intermediates in order, the output last.

    ``parameters={"W": "m n"}``: axes are size names between blanks. ``axes`` are those of the output, if its indices do
    not show them. ``values={"t": "v"}`` makes the input ``t`` one of integers below ``v``. ``offsets`` are integers
    that may be zero, for index expressions (padding). ``scalars`` are positive settings. The batch axis is added in
    front, unless ``batched``: then sizes, axes and formulas name ``B`` and ``s`` themselves, in front.
    Raises ``SpecError``.
    """
    label = f"layer {name}"
    ranges = values or {}

    for key in set(ranges) - set(inputs):
        Excerpt(key, f"{label}, values").fail(f"{key!r} is not an input", "declare it under 'inputs'")

    def declared(tensors: Mapping[str, str], part: str) -> tuple[Declaration, ...]:
        """Return the declarations of a part of the file."""
        return tuple(
            Declaration(
                Excerpt(key, f"{label}, {part}"),
                tuple(Excerpt(axes, f"{label}, {part} {key}").words()),
                Excerpt(ranges[key], f"{label}, values") if key in ranges else None,
            )
            for key, axes in tensors.items()
        )

    return build(
        Declarations(
            name=name,
            sizes=tuple(Excerpt(sizes, f"{label}, sizes").words()),
            inputs=declared(inputs, "input"),
            parameters=declared(parameters, "parameter"),
            formulas=tuple(Excerpt(f, f"{label}, formula {k}") for k, f in enumerate(formulas, 1)),
            output_axes=None if axes is None else tuple(Excerpt(axes, f"{label}, axes").words()),
            offsets=tuple(Excerpt(offsets, f"{label}, offsets").words()),
            scalars=tuple(Excerpt(scalars, f"{label}, scalars").words()),
            title=title,
            notes=tuple(notes),
            batched=batched,
        )
    )


def build(declared: Declarations) -> Layer:
    """Return the layer that the declarations describe, or raise ``SpecError``.

    Stages: names and axes -> ``Namespace``; formulas -> ``Definition``; all of it -> ``derive.forward_map.assemble``.
    Each of several outputs is a part, a layer of its own with the definitions it uses; the whole is the first output,
    with the parts.
    """
    names = _symbols(declared)
    lead = names.lead
    inputs = tuple(_tensor(d, names.sizes, lead) for d in declared.inputs)
    parameters = tuple(_tensor(d, names.sizes) for d in declared.parameters)
    for declaration, tensor in zip(declared.inputs, inputs, strict=True):
        names = _with(names, declaration, tensor, lead)
    for declaration, tensor in zip(declared.parameters, parameters, strict=True):
        names = _with(names, declaration, tensor)
    definitions = _definitions(declared, names)
    _all_used(declared, definitions)
    layer = assemble(
        declared.name,
        title=declared.title,
        sizes=(*(index.size for index in lead), *names.sizes.values(), *names.offsets.values()),
        inputs=inputs,
        parameters=parameters,
        definitions=definitions[:-1],
        output=definitions[-1],
        batched=True,
        notes=declared.notes,
    )
    layer = replace(layer, scalars=tuple(names.scalars.values()))
    if not declared.outputs:
        return layer
    parts = tuple(_part(layer, name.text) for name, _ in declared.outputs)
    return replace(parts[0], name=declared.name, title=layer.title, parts=parts)


def _part(layer: Layer, output: str) -> Layer:
    """Return one output of a layer as a layer of its own, with the definitions it uses."""
    known = {d.name: d for d in (*layer.definitions, layer.output)}
    used, waiting = set[str](), {output}
    while waiting:
        used |= waiting
        expressions = [known[name].expression for name in waiting if name in known]
        waiting = {str(base.label) for e in expressions for base in e.atoms(IndexedBase)} - used
    parameters = tuple(p for p in layer.parameters if p.name in used)
    return replace(
        layer,
        name=f"{layer.name}/{output}",
        title=f"{layer.title}: {output}",
        inputs=tuple(t for t in layer.inputs if t.name in used),
        parameters=parameters,
        definitions=tuple(d for name, d in known.items() if name in used - {output}),
        output=known[output],
    )


def _symbols(declared: Declarations) -> Namespace:
    """Return the namespace of sizes, offsets and scalars; refuse a name that is declared twice."""
    found: dict[str, dict[str, Symbol]] = {"size": {}, "offset": {}, "scalar": {}}
    words = {"size": declared.sizes, "offset": declared.offsets, "scalar": declared.scalars}
    assumptions: dict[str, dict[str, bool]] = {
        "size": {"integer": True, "positive": True},
        "offset": {"integer": True, "nonnegative": True},
        "scalar": {"positive": True},
    }
    for kind, listed in words.items():
        for word in listed:
            name = identifier(word, kind, allowed=("kappa",) if kind == "scalar" else ())
            if any(name in symbols for symbols in found.values()):
                word.fail(f"{kind} {name!r} is declared twice", "remove one of the two")
            if name == BATCH.size.name and not declared.batched:
                word.fail(f"{kind} 'B' is the batch, which the engine puts in front by itself", f"rename the {kind}")
            found[kind][name] = Symbol(name, **assumptions[kind])
    return Namespace(found["size"], {}, found["scalar"], found["offset"], declared.batched)


def _tensor(declaration: Declaration, sizes: Mapping[str, Symbol], lead: tuple[Index, ...] = ()) -> Tensor:
    """Return the declared tensor, with the batch axis in front if ``lead`` holds its index."""
    name = identifier(declaration.name, "tensor")
    if len(declaration.axes) > MOST_AXES:
        declaration.name.fail(f"{name!r} has {len(declaration.axes)} axes, more than {MOST_AXES}", "join some of them")
    if not declaration.axes and not lead:
        declaration.name.fail(f"{name!r} has no axis", f"give it one of length 1, {name} = [1], and write {name}[0]")
    axes = tuple(_axis(word, sizes) for word in declaration.axes)
    values = None if declaration.values is None else _axis(declaration.values, sizes)
    return Tensor(name, (*(index.size for index in lead), *axes), values)


def _with(names: Namespace, declaration: Declaration, tensor: Tensor, lead: tuple[Index, ...] = ()) -> Namespace:
    """Return the namespace with a declared tensor, or refuse a name that is taken."""
    if tensor.name in names.known:
        declaration.name.fail(f"name {tensor.name!r} is declared twice", "rename one of the two")
    return names.with_tensor(tensor.name, Named(tensor.base, tensor.axes[len(lead) :], lead))


def _axis(word: Excerpt, sizes: Mapping[str, Symbol]) -> Expr:
    """Return the length of an axis: a declared size, or a positive integer."""
    if word.text in sizes:
        return sizes[word.text]
    if word.text.isascii() and word.text.isdigit() and len(word.text) <= 18 and int(word.text) > 0:
        return Integer(int(word.text))
    if any(sign in word.text for sign in "+*"):
        tree = parse(word, "eval")
        assert isinstance(tree, ast.Expression)
        found = length(tree.body, sizes)
        if found is not None:
            return found
    near = suggestion(word.text, list(sizes))
    fix = "add it to 'sizes', or write a positive integer, or sums and products of them, such as 2*n"
    word.fail(f"axis {word.quoted} is not a declared size", near + fix)


def _definitions(declared: Declarations, names: Namespace) -> tuple[Definition, ...]:
    """Return the definitions of the formulas, each of which may use the ones before it."""
    definitions: list[Definition] = []
    sizes: dict[str, Size] = {}
    for number, formula in enumerate(declared.formulas):
        name, words = declared.targets.get(number, (None, None))
        target = None if name is None else identifier(name, "tensor")
        axes = None if words is None else [_axis(word, names.sizes) for word in words]
        definition = parse_definition(formula, names, target=target, axes=axes)
        sizes[definition.name] = size_of(definition.expression, sizes)
        if sizes[definition.name].too_large:
            problem = f"multiplied out, the formula has more than {MOST_TERMS} terms, or {MOST_SUMS} nested sums in one"
            formula.fail(problem, "use smaller powers, or fewer factors that are sums")
        lead = len(names.lead)
        indices = definition.indices[lead:]
        named = Named(definition.base, tuple(i.size for i in indices), definition.indices[:lead])
        names = names.with_tensor(definition.name, named)
        definitions.append(definition)
    if any(definitions[number].indices[0] != BATCH for number in declared.targets):
        declared.formulas[-1].fail("the output of a batched layer does not begin with 's' over 'B'", "put s first")
    return tuple(definitions)


def _all_used(declared: Declarations, definitions: Sequence[Definition]) -> None:
    """Refuse an input, a parameter or an intermediate that no formula uses."""
    used = {str(base.label) for d in definitions for base in d.expression.atoms(IndexedBase)}
    used |= {name.text for name, _ in declared.outputs}
    for declaration in (*declared.inputs, *declared.parameters):
        if declaration.name.text not in used:
            declaration.name.fail(
                f"{declaration.name.text!r} is declared, but no formula depends on it", "use it or remove it"
            )
    for definition, formula in zip(definitions[:-1], declared.formulas, strict=False):
        if definition.name not in used:
            formula.fail(f"{definition.name!r} is defined, but no later formula uses it", "use it or remove it")
