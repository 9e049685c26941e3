"""Records (derivations, maps, steps, layers) as JSON trees and back, field by field.

A tree is ``{"records": [...], "root": ...}``. Layers, tensors and definitions occur many times, so each is written once
into ``records`` and referred to by its number; a record refers only to earlier ones. Reading checks that every record
has exactly the fields of its class, each of the declared type.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from sympy import Basic

from derive.cancel import Refusal
from derive.export.trees import Tree, TreeError, from_tree, to_tree
from derive.forward_map import Definition, Group, Layer, Tensor
from derive.record import CancellingMap, Claim, Derivation, Limit, Property, SelfFactor, Status, Step, Verdict

_RECORDS = (
    CancellingMap,
    Claim,
    Definition,
    Derivation,
    Group,
    Layer,
    Limit,
    Property,
    Refusal,
    SelfFactor,
    Step,
    Tensor,
    Verdict,
)
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in _RECORDS}
_FIELDS: dict[str, dict[str, Any]] = {name: typing.get_type_hints(kind) for name, kind in _KINDS.items()}
_SHARED = (Definition, Layer, Tensor)
_MAX_TEXT = 20_000
_MAX_RECORDS = 20_000


def record_tree(record: Any) -> Tree:
    """Return a record as a JSON tree."""
    writer = _Writer()
    root = writer.value(record)
    return {"records": writer.records, "root": root}


def record_from_tree(tree: object, kind: type[Any]) -> Any:
    """Return the record of class ``kind`` in a tree; raise TreeError if ``record_tree`` cannot have written it."""
    if not isinstance(tree, Mapping) or not isinstance(tree.get("records"), list):
        raise TreeError("a record tree needs 'records' and 'root'")
    if len(tree["records"]) > _MAX_RECORDS:
        raise TreeError(f"too many records: at most {_MAX_RECORDS}")
    reader = _Reader()
    for record in tree["records"]:
        reader.known.append(reader.record(record))
    root = reader.value(tree.get("root"))
    if not isinstance(root, kind):
        raise TreeError(f"a {kind.__name__} is needed, not a {type(root).__name__}")
    return root


class _Writer:
    """Writes one record and all records in it."""

    def __init__(self) -> None:
        self.records: list[Tree] = []
        self._numbers: dict[Any, int] = {}

    def value(self, value: Any) -> Any:
        """Return a value in a form that JSON can hold."""
        if isinstance(value, Enum):
            return value.value
        if value is None or isinstance(value, str | bool | int):
            return value
        if isinstance(value, tuple):
            return [self.value(v) for v in value]
        if isinstance(value, Basic):
            return {"tree": to_tree(value)}
        if not isinstance(value, _SHARED):
            return self._record(value)
        if value not in self._numbers:
            record = self._record(value)
            self._numbers[value] = len(self.records)
            self.records.append(record)
        return {"record": self._numbers[value]}

    def _record(self, record: Any) -> Tree:
        fields = {f.name: self.value(getattr(record, f.name)) for f in dataclasses.fields(record)}
        return {"kind": type(record).__name__, "fields": fields}


class _Reader:
    """Reads one tree; ``known`` are the records read so far."""

    def __init__(self) -> None:
        self.known: list[Any] = []

    def value(self, value: object) -> Any:
        """Return the value of a piece of JSON; raise TreeError if it is not the form of any value."""
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            raise TreeError(f"a text is longer than {_MAX_TEXT} characters")
        if value is None or isinstance(value, str | bool | int):
            return value
        if isinstance(value, list):
            return tuple(self.value(v) for v in value)
        if isinstance(value, Mapping) and set(value) == {"tree"}:
            return from_tree(value["tree"])
        if isinstance(value, Mapping) and set(value) == {"record"}:
            return self._reference(value["record"])
        return self.record(value)

    def _reference(self, number: object) -> Any:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(self.known):
            raise TreeError(f"no record {number!r} before this place")
        return self.known[number]

    def record(self, value: object) -> Any:
        """Return the record of a known kind with these fields; raise TreeError for any other."""
        if not isinstance(value, Mapping) or not isinstance(value.get("fields"), Mapping):
            raise TreeError("a record needs 'kind' and 'fields'")
        name = value.get("kind")
        if not isinstance(name, str) or name not in _KINDS:
            raise TreeError(f"unknown record; known: {', '.join(_KINDS)}")
        hints = _FIELDS[name]
        if set(value["fields"]) != set(hints):
            raise TreeError(f"a {name} has the fields {', '.join(hints)}")
        fields = {key: self.value(inner) for key, inner in value["fields"].items()}
        for key, hint in hints.items():
            fields[key] = Status(fields[key]) if hint is Status and fields[key] in list(Status) else fields[key]
            if not _fits(fields[key], hint):
                raise TreeError(f"{name}.{key} has the wrong type: {type(fields[key]).__name__}")
        return _KINDS[name](**fields)


def _fits(value: object, hint: Any) -> bool:
    """Return whether a value read from JSON has the declared type of its field."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return isinstance(value, (Basic, *_RECORDS))
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and _fit_all(value, typing.get_args(hint))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _fit_all(values: Sequence[object], hints: tuple[Any, ...]) -> bool:
    if len(hints) == 2 and hints[1] is Ellipsis:
        return all(_fits(value, hints[0]) for value in values)
    return len(values) == len(hints) and all(_fits(value, hint) for value, hint in zip(values, hints, strict=True))
