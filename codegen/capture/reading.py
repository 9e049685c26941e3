"""Read the united program, operator by operator, into a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
from sympy import Expr, IndexedBase, Symbol

from codegen.capture.applying import applied, unknown
from codegen.capture.constants import recognised
from codegen.capture.errors import CaptureError, refuse
from codegen.capture.exporting import Reference
from codegen.capture.fitting import Fitter
from codegen.capture.forming import Forming, is_short
from codegen.capture.operators import RULES
from codegen.capture.uniting import Call, Declared, United
from codegen.capture.values import Indices, Value
from derive.algebra.nodes import tensor
from derive.forward_map import BATCH, Definition, Layer, Tensor
from derive.names import RESERVED

_FOLLOWED = frozenset(
    f"aten.{name}"
    for name in [
        "view",
        "reshape",
        "unsqueeze",
        "squeeze",
        "expand",
        "transpose",
        "permute",
        "select",
        "slice",
        "clone",
        "contiguous",
        "to",
        "_to_copy",
        "flatten",
        "alias",
        "unflatten",
        "expand_as",
        "t",
        "add",
        "sub",
        "remainder",
    ]
)
_VIEWS = frozenset(
    f"aten.{name}"
    for name in [
        "view",
        "reshape",
        "transpose",
        "permute",
        "select",
        "slice",
        "expand",
        "unsqueeze",
        "squeeze",
        "unbind",
        "split",
        "chunk",
        "t",
        "flatten",
        "unflatten",
        "narrow",
        "alias",
        "detach",
        "diagonal",
        "split_with_sizes",
        "view_as",
        "expand_as",
    ]
)
_LONGEST_SOURCE = 90


@dataclass(frozen=True)
class Read:
    """A layer read from a program, the module's names for its tensors, and the axes of its output."""

    layer: Layer
    paths: Mapping[str, str]
    kinds: Mapping[str, str]
    axes: tuple[tuple[str, ...], ...]
    output_shape: tuple[Expr, ...]
    lengths: tuple[Expr, ...] = ()


@dataclass
class _Reader:
    """The value of each node of the program read so far."""

    united: United
    fitter: Fitter
    form: Forming
    batched: bool
    values: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    viewed: set[str] = field(default_factory=set)
    owners: dict[str, str] = field(default_factory=dict)

    def declare(self, declared: Declared) -> None:
        """Give a tensor that the program reads its value: a declared tensor, a pattern of indices, or a number."""
        if declared.kind == "setting":
            self.values[declared.name] = _setting(declared.given[0].value)
            return
        if declared.kind in ("buffer", "constant"):
            known = recognised(declared, self.fitter)
            if known is not None:
                self.values[declared.name] = known
                return
        tied = self._tied(declared)
        if tied is not None:
            self.values[declared.name] = self.values[tied]
            return
        name = self.form.free_name(declared.path if declared.kind != "input" else declared.name)
        limit = self._range(declared) if declared.integer else None
        virtual = declared.kind == "input" and not self.batched
        axes = (BATCH.size, *declared.shape) if virtual else declared.shape
        single = not axes
        self.tensors[name] = Tensor(name, (sympy.S.One,) if single else axes, limit)
        self.paths[name], self.kinds[name] = declared.path, declared.kind
        base = tensor(name, values=limit)
        kind = "integer" if declared.integer else "truth" if _is_truth(declared) else "real"

        def at(i: Indices) -> Expr:
            """Return the entry."""
            return base[(BATCH, *i) if virtual else i or (sympy.S.Zero,)]

        self.values[declared.name] = Value(declared.shape, at, kind=kind, name=name)

    def _tied(self, declared: Declared) -> str | None:
        """Return the tensor declared earlier that is the same object in the module (tied parameters)."""
        value = declared.given[0].value
        for other in self.united.declared:
            if other is declared:
                return None
            if other.kind == declared.kind == "parameter" and other.given[0].value.data_ptr() == value.data_ptr():
                return other.name
        return None

    def _range(self, declared: Declared) -> Expr:
        """Return how many values the entries of an integer tensor have: the length of the axis that they select."""
        reached = {declared.name}
        for call in self.united.calls:
            uses = {k: a for k, a in call.arguments.items() if _mentions(a, reached)}
            if not uses:
                continue
            limit = self._limit(call, reached)
            if limit is not None:
                return limit
            if call.operator in _FOLLOWED:
                reached.add(call.name)
        raise refuse(
            f"the integer {declared.kind} {declared.path!r} selects nothing", "use it as an index, or pass it as float"
        )

    def _limit(self, call: Call, reached: set[str]) -> Expr | None:
        arguments = call.arguments
        if call.operator in ("aten.embedding", "aten.embedding_bag"):
            return self._shape(arguments["weight"])[0]
        if call.operator == "aten.one_hot":
            return sympy.sympify(arguments["num_classes"])
        if call.operator in ("aten.index_select", "aten.gather"):
            shape = self._shape(arguments["self"])
            return shape[int(arguments["dim"]) % len(shape)]
        if call.operator == "aten.index":
            shape = self._shape(arguments["self"])
            return next(shape[k] for k, a in enumerate(arguments["indices"]) if _mentions(a, reached))
        return None

    def _shape(self, reference: Reference) -> tuple[Expr, ...]:
        for declared in self.united.declared:
            if declared.name == reference.name:
                return declared.shape
        shape: tuple[Expr, ...] = next(c.shape for c in self.united.calls if c.name == reference.name)
        return shape

    def run(self, call: Call) -> None:
        """Apply the rule of an operator."""
        self.form.name, self.form.source, self.form.shape = call.name, call.source, call.shape
        if call.operator == "getitem":
            self.values[call.name] = self._resolved(call.arguments["0"])[int(call.arguments["1"])]
            self._note_view(call, call.arguments["0"])
            return
        name = call.operator
        if name not in RULES:
            raise unknown(call)
        try:
            arguments = {k: self._resolved(a) for k, a in call.arguments.items()}
            if name.endswith("_") and not name.endswith("__"):
                self._in_place(call, arguments)
                return
            self.values[call.name] = self._kept(call, applied(call, arguments, self.form))
        except CaptureError as problem:
            raise problem.at(f"{call.operator} at {call.source}" if call.source else call.operator) from problem
        if name in _VIEWS:
            self._note_view(call, call.arguments.get("self"))

    def _kept(self, call: Call, found: Any) -> Any:
        """Return a result, settled if it is long and used more than once."""
        if not isinstance(found, Value):
            return found
        named = found if found.name else replace(found, name=call.name, settled={})
        if self.uses(call.name) > 1 and named.support is None and not is_short(self.form.probe(named)):
            return self.form.settle(named, call.name)
        return named

    def uses(self, name: str) -> int:
        """Return how many operators use a result."""
        return sum(_mentions(tuple(c.arguments.values()), {name}) for c in self.united.calls)

    def _in_place(self, call: Call, arguments: Mapping[str, Any]) -> None:
        """Read an operator that overwrites its argument: allowed if no other tensor shares its memory."""
        first = next(iter(call.arguments))
        target = call.arguments[first]
        buffers = {d.name for d in self.united.declared if d.kind == "buffer"}
        if isinstance(target, Reference) and target.name in buffers:
            later = self.united.calls[self.united.calls.index(call) + 1 :]
            if any(_mentions(tuple(c.arguments.values()), {target.name, call.name}) for c in later):
                raise refuse(
                    f"{call.operator} changes a buffer that is used afterwards, so the result depends on earlier calls",
                    "compute with a copy, or call .eval() in the factory",
                )
            self.values[call.name] = None
            return
        given = {d.name for d in self.united.declared}
        if not isinstance(target, Reference) or target.name in self.viewed or target.name in given:
            raise refuse(
                f"{call.operator} writes into a tensor that shares memory with another",
                _without_overwriting(call.operator),
            )
        found = self._kept(call, applied(call, arguments, self.form))
        self.values[call.name] = self.values[target.name] = found

    def _note_view(self, call: Call, source: Any) -> None:
        if isinstance(source, Reference):
            self.viewed |= {call.name, source.name}

    def _resolved(self, argument: Any) -> Any:
        if isinstance(argument, Reference):
            if argument.name not in self.values or self.values[argument.name] is None:
                raise refuse("an operator's result is used that capture does not compute", "do not use this result")
            return self.values[argument.name]
        if isinstance(argument, tuple):
            return tuple(map(self._resolved, argument))
        return argument


def read(united: United, fitter: Fitter, name: str, words: str, batched: bool) -> Read:
    """Return the layer of a united program; raise CaptureError for an operator without a rule."""
    sizes: dict[Symbol, int] = dict(fitter.points[-1])
    taken = {str(s) for s in sizes} | {BATCH.name, str(BATCH.size), *RESERVED}
    form = Forming(sizes, taken)
    reader = _Reader(united, fitter, form, batched)
    for declared in united.declared:
        reader.declare(declared)
    for call in _needed(united):
        reader.run(call)
    return _finished(reader, name, words)


def _needed(united: United) -> list[Call]:
    """Return the operators that the output depends on, and those that write in place."""
    wanted, found = {united.output}, []
    for call in reversed(united.calls):
        overwrites = call.operator.endswith("_") and not call.operator.endswith("__")
        if call.name in wanted or overwrites:
            found.append(call)
            wanted |= _names(tuple(call.arguments.values()))
    return found[::-1]


def _finished(reader: _Reader, name: str, words: str) -> Read:
    form, value = reader.form, reader.values[reader.united.output]
    last = reader.united.calls[-1] if reader.united.calls else None
    form.source = last.source if last else ""
    if not isinstance(value, Value) or value.support is not None:
        raise refuse("the output contains minus infinity", "return finite numbers")
    form.taken.discard("z")
    grains = [g if len(g) == 1 and g[0].offset == 0 else None for g in value.grains]
    before = len(form.definitions)
    form.define(value, "z")
    output = form.definitions.pop()
    assert len(form.definitions) == before
    definitions = _used(form.definitions, output)
    mentioned = {b for d in (*definitions, output) for b in d.expression.atoms(IndexedBase)}
    tensors = [t for t in reader.tensors.values() if t.base in mentioned]
    parameters = tuple(t for t in tensors if reader.kinds[t.name] == "parameter")
    if not parameters:
        raise refuse("the output depends on no parameter", "return the output that depends on parameters first")
    inputs = tuple(t for t in tensors if reader.kinds[t.name] != "parameter")
    symbols = _symbols((*inputs, *parameters), (*definitions, output))
    order = {s: k for k, s in enumerate(form.sizes)}
    layer = Layer(
        name=name,
        title=name.replace("_", " "),
        sizes=tuple(sorted(symbols, key=lambda s: (s != BATCH.size, order.get(s, 0)))),
        inputs=inputs,
        parameters=parameters,
        definitions=definitions,
        output=output,
        notes=_notes(reader, words, definitions, output),
    )
    axes, rest = [], [i.name for i in output.indices if i != BATCH or BATCH.size in value.shape]
    for length, grain in zip(value.shape, grains, strict=True):
        count = 0 if length == 1 else 1 if grain is None else len([f for f in grain[0].factors if f != 1])
        axes.append(tuple(rest[:count]))
        rest = rest[count:]
    kinds = {t.name: reader.kinds[t.name] for t in tensors}
    paths = {t.name: reader.paths[t.name] for t in tensors}
    return Read(layer, paths, kinds, tuple(axes), value.shape)


def _used(definitions: list[Definition], output: Definition) -> tuple[Definition, ...]:
    """Return the definitions that the output depends on."""
    wanted, found = set(output.expression.atoms(IndexedBase)), []
    for definition in reversed(definitions):
        if definition.base in wanted:
            found.append(definition)
            wanted |= definition.expression.atoms(IndexedBase)
    return tuple(found[::-1])


def _symbols(tensors: tuple[Tensor, ...], definitions: tuple[Definition, ...]) -> set[Symbol]:
    from derive.algebra.index import Index

    sizes = [a for t in tensors for a in (*t.axes, *([t.values] if t.values is not None else []))]
    sizes += [i.size for d in definitions for i in (*d.indices, *d.expression.atoms(Index))]
    sizes += [d.expression for d in definitions]
    found = {s for size in sizes for s in size.atoms(Symbol) if type(s) is Symbol and s.is_integer and s.is_positive}
    return found


def _notes(reader: _Reader, words: str, definitions: tuple[Definition, ...], output: Definition) -> tuple[str, ...]:
    notes = [f"Captured from {words} by torch.export, and compared with the module by value and by slope."]
    lines = {**reader.form.sources, output.name: reader.form.source}
    for definition in (*definitions, output):
        source = lines.get(definition.name, "")
        if source:
            notes.append(f"`{definition.name}` is from {_shortened(source)}.")
    if reader.united.outputs > 1:
        notes.append(f"The module returns {reader.united.outputs} tensors; this is the first of real numbers.")
    return (*notes, *dict.fromkeys(reader.form.notes))


def _shortened(source: str) -> str:
    text = source.replace("`", "'")
    return text if len(text) <= _LONGEST_SOURCE else f"{text[: _LONGEST_SOURCE - 3]}..."


def _without_overwriting(operator: str) -> str:
    """Return what to write instead of an operator that overwrites its argument."""
    plain = operator.rstrip("_").removeprefix("aten.")
    if plain in ("fill", "copy", "zero", "index_put", "set"):
        return "build the tensor with torch.where, torch.cat or torch.stack instead of assigning into it"
    return f"write {plain} without the underscore, on a new tensor"


def _mentions(argument: Any, names: set[str]) -> bool:
    return bool(_names(argument) & names)


def _names(argument: Any) -> set[str]:
    if isinstance(argument, Reference):
        return {argument.name}
    if isinstance(argument, tuple):
        return set().union(*map(_names, argument)) if argument else set()
    return set()


def _setting(value: Any) -> Any:
    return value if isinstance(value, bool | None) else sympy.sympify(value)


def _is_truth(declared: Declared) -> bool:
    return str(declared.given[0].value.dtype) == "torch.bool"
