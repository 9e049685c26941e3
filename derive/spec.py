"""A layer from a TOML file: the forward map only; a refusal names the file, the line, the column and the fix.

    name = "scaled_affine"       # also: title = "..."; offsets = ["pad"], integers that may be 0, for use in brackets;
                                 # scalars = ["alpha"], positive settings, also as exponents
    sizes = ["n", "m"]
    [input]
    x = ["n"]                         # integers, for use as an index: t = { axes = ["p"], values = "v" }
    [parameters]
    W = ["m", "n"]                    # an axis is a declared size, a positive integer, or sums and products of them
    b = ["m"]
    [output]
    z = ["m"]
    definitions = ["u[i] = sum[j](W[i, j]*x[j])"]     # optional, in order of use
    formula = "z[i] = u[i] + b[i]"    # of several outputs: formulas = [..], one for each in the order declared

Stages: bytes -> text (size, UTF-8) -> ``tomllib`` -> declarations with places -> ``derive.declare.build``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from derive.declare import Declaration, Declarations, build, forward
from derive.excerpt import Excerpt, SpecError, quote, suggestion
from derive.formula import parse_angle
from derive.forward_map import Layer
from derive.names import identifier
from derive.toml_places import Path as KeyPath
from derive.toml_places import places

__all__ = ["LARGEST_FILE", "SpecError", "forward", "load_spec", "loads_spec", "parse_angle"]

LARGEST_FILE = 64 * 1024
MOST_ENTRIES = 64
MOST_DOTS = 100  # in a line; tomllib needs quadratic time for dotted keys

_KEYS = ("name", "title", "source", "note", "batched", "sizes", "offsets", "scalars", "input", "parameters", "output")
_TITLE = re.compile(r"[A-Za-z0-9 ,.()+:/'-]{1,120}")
_LINE = re.compile(r"[A-Za-z0-9 ,.;()+:/'=-]{1,240}")
_PLACE = re.compile(r" ?\(at (?:line (\d+), column (\d+)|end of document)\)$")
_ONE_OUTPUT = 'write one, such as z = ["m"], or formulas = [..] with one for each'
_KINDS = {
    dict: "a table",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a decimal",
}
_EXAMPLES = {
    "name": 'name = "my_layer"',
    "sizes": 'sizes = ["n", "m"]',
    "input": 'a section [input] with a line such as x = ["n"]',
    "parameters": 'a section [parameters] with a line such as W = ["m", "n"]',
    "output": 'a section [output] with a line such as z = ["m"] and a formula',
    "formula": 'formula = "z[i] = sum[j](W[i, j]*x[j])"',
}


def load_spec(path: str | os.PathLike[str]) -> Layer:
    """Return the layer that a TOML file describes; raise ``SpecError`` for a file that cannot be read or used."""
    filename = os.fspath(path)
    try:
        if Path(path).is_dir():
            raise SpecError(f"{quote(filename, 200)} is a folder; give the path of a .toml file", filename)
        if not Path(path).is_file():
            raise SpecError(f"{quote(filename, 200)} is not a file; check the path", filename)
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SpecError(f"{quote(filename, 200)} cannot be read: {reason}; check the path", filename) from error
    if len(data) > LARGEST_FILE:
        _too_large(filename)
    return loads_spec(_decoded(data, filename), filename)


def loads_spec(text: str, filename: str = "<string>") -> Layer:
    """Return the layer that a TOML text describes, or raise ``SpecError``; ``filename`` is for the messages."""
    if len(text) > LARGEST_FILE:
        _too_large(filename)
    source = text.replace("\r\n", "\n")
    return build(_Document(source, filename, _parsed(source, filename)).declarations())


def _too_large(filename: str) -> None:
    problem = f"the file is larger than {LARGEST_FILE // 1024} KiB"
    raise SpecError(
        f"{quote(filename, 200)[1:-1]}, line 1, column 1: {problem}; a layer needs a few lines", filename, 1, 1
    )


def _decoded(data: bytes, filename: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        where = f"{quote(filename, 200)[1:-1]}, line {line}, column {column}"
        problem = f"byte 0x{data[error.start]:02x} is not UTF-8 text"
        raise SpecError(f"{where}: {problem}; save the file as plain UTF-8 text", filename, line, column) from error


def _parsed(source: str, filename: str) -> dict[str, Any]:
    """Return the parsed TOML; report an error of ``tomllib`` at its place in the file."""
    whole = Excerpt(source, filename)
    start = 0
    for line in source.split("\n"):
        if line.count(".") > MOST_DOTS:
            whole.fail(f"the line holds more than {MOST_DOTS} dots", "shorten it", start, start + 1)
        start += len(line) + 1
    try:
        return tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        what = quote(_PLACE.sub("", str(error)), 100)[1:-1]
        at = len(source.rstrip())
        if place is not None and place[1]:
            lines = source.split("\n")
            at = sum(len(line) + 1 for line in lines[: int(place[1]) - 1]) + int(place[2]) - 1
        whole.fail(f"this is not TOML: {what}", "fix the syntax of this line or the one before", at, at + 1)
    except RecursionError:
        whole.fail("the file is nested too deeply", "a layer needs no nested lists", end=1)
    except ValueError:
        whole.fail("the file holds a number with too many digits", "shorten it", end=1)


class _Document:
    """A parsed file that knows the place of its keys and values."""

    def __init__(self, source: str, filename: str, data: Mapping[str, Any]) -> None:
        self.source, self.filename, self.data = source, filename, data
        self.places = places(source)

    def declarations(self) -> Declarations:
        """Return the declarations of the file; ``build`` checks names and formulas."""
        self.known_keys(self.data, _KEYS, ())
        inputs, parameters = self.tensors("input"), self.tensors("parameters")
        if not inputs:
            self.key(("input",)).fail("the layer has no input", f"add {_example_line('input')}")
        if not parameters:
            self.key(("parameters",)).fail("the layer has no parameters to learn", f"add {_example_line('parameters')}")
        output = self.get(self.data, "output", dict, ())
        names = [key for key in output if key not in ("formula", "formulas", "definitions")]
        if len(names) > 1 and "formulas" in output:
            return self.several(names, inputs, parameters)
        if len(names) != 1:
            problem = f"[output] declares {len(names)} outputs, not one"
            self.key(("output", names[1]) if names else ("output",)).fail(
                problem, 'write one, such as z = ["m"], or formulas = [..] with one for each'
            )
        formulas = self.strings(("output", "definitions")) if "definitions" in output else []
        self.get(output, "formula", str, ("output",))
        return Declarations(
            name=self.name(),
            title=self.title(),
            notes=self.notes(),
            batched=bool(self.get(self.data, "batched", bool, ())) if "batched" in self.data else False,
            sizes=tuple(self.strings(("sizes",))),
            offsets=tuple(self.strings(("offsets",))) if "offsets" in self.data else (),
            scalars=tuple(self.strings(("scalars",))) if "scalars" in self.data else (),
            inputs=inputs,
            parameters=parameters,
            formulas=(*formulas, self.value(("output", "formula"))),
            output=self.key(("output", names[0])),
            output_axes=self.axes(("output", names[0])),
        )

    def several(
        self, names: list[str], inputs: tuple[Declaration, ...], parameters: tuple[Declaration, ...]
    ) -> Declarations:
        """Return the declarations of a file with several outputs: ``formulas`` holds one for each, in order."""
        definitions = self.strings(("output", "definitions")) if "definitions" in self.data["output"] else []
        formulas = self.strings(("output", "formulas"))
        if len(formulas) != len(names):
            problem = f"{len(names)} outputs are declared, but 'formulas' holds {len(formulas)}"
            self.key(("output", "formulas")).fail(problem, "give one formula for each output, in the order declared")
        return Declarations(
            name=self.name(),
            title=self.title(),
            notes=self.notes(),
            sizes=tuple(self.strings(("sizes",))),
            offsets=tuple(self.strings(("offsets",))) if "offsets" in self.data else (),
            scalars=tuple(self.strings(("scalars",))) if "scalars" in self.data else (),
            inputs=inputs,
            parameters=parameters,
            formulas=(*definitions, *formulas),
            outputs=tuple((self.key(("output", name)), self.axes(("output", name))) for name in names),
        )

    def name(self) -> str:
        """Return the layer's name."""
        self.get(self.data, "name", str, ())
        return identifier(self.value(("name",)), "layer")

    def title(self) -> str:
        """Return the layer's title, or an empty string."""
        if "title" not in self.data:
            return ""
        title: str = self.get(self.data, "title", str, ())
        if not _TITLE.fullmatch(title):
            fix = "use one line of at most 120 ASCII letters, digits and , . ( ) + : / ' -"
            self.value(("title",)).fail(f"title {quote(title)} cannot be printed everywhere", fix)
        return title

    def notes(self) -> tuple[str, ...]:
        """Return the layer's source and its note, if present: each one line that can be printed everywhere."""
        lines = []
        for key, lead in (("source", "Source: "), ("note", "")):
            line = self.get(self.data, key, str, ()) if key in self.data else ""
            if line and not _LINE.fullmatch(line):
                fix = "use one line of at most 240 ASCII letters, digits and , . ; ( ) + : / ' = -"
                self.value((key,)).fail(f"{key} {quote(line)} cannot be printed everywhere", fix)
            lines += [lead + line] if line else []
        return tuple(lines)

    def tensors(self, section: str) -> tuple[Declaration, ...]:
        """Return the tensors of ``[input]`` or ``[parameters]``."""
        table = self.get(self.data, section, dict, ())
        self.few(table, (section,))
        return tuple(self.tensor((section, name), entry) for name, entry in table.items())

    def tensor(self, path: KeyPath, entry: object) -> Declaration:
        """Return ``x = ["n"]`` or, for an input, ``t = { axes = ["p"], values = "v" }``."""
        if not isinstance(entry, dict) or path[0] != "input":
            return Declaration(self.key(path), self.axes(path))
        self.known_keys(entry, ("axes", "values"), path)
        self.get(entry, "axes", list, path)
        values = self.size((*path, "values")) if "values" in entry else None
        return Declaration(self.key(path), self.axes((*path, "axes")), values)

    def axes(self, path: KeyPath) -> tuple[Excerpt, ...]:
        """Return the axes of a list of sizes."""
        return tuple(self.size((*path, number)) for number, _ in enumerate(self.list(path)))

    def size(self, path: KeyPath) -> Excerpt:
        """Return a size: a string, or an integer."""
        entry = self.at(path)
        if isinstance(entry, bool) or not isinstance(entry, str | int):
            fix = 'write the name of a size, such as "n", or a positive integer'
            self.value(path).fail(f"{_kind(entry)} is not a size", fix)
        return self.value(path)

    def strings(self, path: KeyPath) -> list[Excerpt]:
        """Return a list of strings."""
        for number, entry in enumerate(self.list(path)):
            if not isinstance(entry, str):
                self.value((*path, number)).fail(f"{_kind(entry)} is not a string", "put it in quotes")
        return [self.value((*path, number)) for number, _ in enumerate(self.list(path))]

    def list(self, path: KeyPath) -> Sequence[object]:
        """Return a list of a sensible length."""
        holder = self.at(path[:-1])
        assert isinstance(holder, Mapping)
        entries: Sequence[object] = self.get(holder, str(path[-1]), list, path[:-1])
        self.few(entries, path)
        return entries

    def few(self, entries: Sequence[object] | Mapping[str, object], path: KeyPath) -> None:
        """Refuse a collection that is too long."""
        if len(entries) > MOST_ENTRIES:
            self.key(path).fail(f"'{path[-1]}' has {len(entries)} entries, more than {MOST_ENTRIES}", "shorten it")

    def get(self, table: Mapping[str, Any], key: str, kind: type, path: KeyPath) -> Any:
        """Return ``table[key]`` if it is there and of the right kind."""
        if key not in table:
            self.key(path).fail(f"{quote(key)} is missing", f"add {_example_line(key)}")
        if not isinstance(table[key], kind):
            problem = f"{quote(key)} is {_kind(table[key])}, not {_KINDS[kind]}"
            self.value((*path, key)).fail(problem, f"write {_example_line(key)}")
        return table[key]

    def known_keys(self, table: Mapping[str, object], allowed: tuple[str, ...], path: KeyPath) -> None:
        """Refuse an unknown key."""
        for key in table:
            if key not in allowed:
                fix = suggestion(key, allowed) + f"the keys here are: {', '.join(allowed)}"
                self.key((*path, key)).fail(f"unknown key {quote(key)}", fix)

    def at(self, path: KeyPath) -> object:
        """Return the value at a path."""
        value: Any = self.data
        for part in path:
            value = value[part]
        return value

    def key(self, path: KeyPath) -> Excerpt:
        """Return the key at a path, as text with its place (the file's start if it has none)."""
        place = self.places.get(path)
        return Excerpt(str(path[-1]) if path else "", self.filename, self.source, place.key if place else ())

    def value(self, path: KeyPath) -> Excerpt:
        """Return the value at a path, as text with its place; a value that is not a string, as the file spells it."""
        place, entry = self.places.get(path), self.at(path)
        offsets = place.value if place else ()
        text = entry if isinstance(entry, str) else "".join(self.source[k] for k in offsets)
        return Excerpt(text, self.filename, self.source, offsets)


def _kind(entry: object) -> str:
    return _KINDS.get(type(entry), "a date or time")


def _example_line(key: str) -> str:
    return _EXAMPLES.get(key, f'{key[:40]} = ["n"]')
