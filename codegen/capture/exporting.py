"""A module at one size as a flat list of ATen operators, by ``torch.export``, undecomposed.

Arguments are named as in the operator's schema, with defaults filled in. A node keeps the line of the
user's source that made it.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen.capture.errors import CaptureError, refuse
from codegen.capture.factory import Made, in_double
from codegen.capture.loading import first_line

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+\n\s*(?P<text>[^\n]*)')
_LIBRARY = ("site-packages", "/torch/")
_GRADIENTS_SWITCHED = "wrap_with_set_grad_enabled"  # torch.no_grad, torch.enable_grad
_NUMBERS = ("aten._local_scalar_dense", "aten.item")


@dataclass(frozen=True)
class Reference:
    """The result of another node, as an argument."""

    name: str


@dataclass(frozen=True)
class Node:
    """One call of an operator such as ``aten.linear``: named arguments, shapes of its results, its source line."""

    name: str
    operator: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...] | tuple[tuple[int, ...], ...] | None
    source: str


@dataclass(frozen=True)
class Given:
    """A tensor that the program reads: its kind, the module's own name for it, and its value."""

    name: str
    kind: str  # parameter, buffer, constant, input
    path: str
    value: Any


@dataclass(frozen=True)
class Program:
    """A module at one size: the tensors it reads, its operators in order, and its first real output."""

    given: tuple[Given, ...]
    nodes: tuple[Node, ...]
    output: str
    outputs: int
    made: Made


def export(made: Made) -> Program:
    """Return the program of a module; raise CaptureError where ``torch.export`` cannot follow it."""
    import torch

    with in_double(), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(made.module, made.positional, dict(made.named), strict=False)
        except CaptureError:
            raise
        except Exception as problem:
            raise _refusal(made, problem) from problem
    nodes: list[Node] = []
    output, outputs, read = "", 0, set[str]()
    for node in exported.graph.nodes:
        if node.op == "output":
            found = [a for a in _flat(node.args[0]) if hasattr(a, "name")]
            mutated = len(exported.graph_signature.buffers_to_mutate)
            output, outputs = _first_real(found[mutated:]), len(found) - mutated
        elif str(node.target) == _GRADIENTS_SWITCHED:
            nodes += _block(node, exported.graph)
            read.update(user.name for user in node.users)
        elif node.op not in ("placeholder", "get_attr") and node.name not in read:
            nodes.append(_node(node))
    return Program(_given(exported, made), tuple(nodes), output, outputs, made)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's logging and printing: a ``CaptureError`` says the same."""
    level, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(level)


def _refusal(made: Made, problem: Exception) -> CaptureError:
    """Return the error for a module that cannot be exported: most often its control flow depends on values."""
    text, kind = str(problem), type(problem).__name__
    line = _source(text) or _place(problem)
    name = type(made.module).__name__
    if "DataDependent" in kind or "data-dependent" in text or "Dynamic" in kind or "_local_scalar_dense" in text:
        return refuse(
            f"{name} has control flow that depends on the values of a tensor",
            "replace 'if' and .item() by torch.where, or move the decision out of forward",
            line,
        )
    return refuse(
        f"{name} cannot be exported: {first_line(problem)}",
        "change the module or its example inputs until torch.export.export accepts them",
        line,
        about_sizes=True,
    )


def _place(problem: Exception) -> str:
    import traceback

    frames = [f for f in traceback.extract_tb(problem.__traceback__) if not any(w in f.filename for w in _LIBRARY)]
    own = [f for f in frames if not f.filename.startswith(str(Path(__file__).parent))]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line}" if own else ""


def _given(exported: Any, made: Made) -> tuple[Given, ...]:
    """Return the tensors that the placeholders of a program stand for."""
    state: dict[str, Any] = dict(made.module.named_parameters(remove_duplicate=False))
    state |= dict(made.module.named_buffers(remove_duplicate=False))
    found, examples = [], iter(made.flat)
    for spec in exported.graph_signature.input_specs:
        kind, name = spec.kind.name, getattr(spec.arg, "name", "")
        if kind == "USER_INPUT":
            value = next(examples)
            found.append(Given(name, "input", name, value))
        elif kind == "PARAMETER" and state[spec.target].requires_grad:
            found.append(Given(name, "parameter", spec.target, state[spec.target].detach()))
        elif kind in ("PARAMETER", "BUFFER"):
            found.append(Given(name, "buffer", spec.target, state[spec.target].detach()))
        elif kind == "CONSTANT_TENSOR":
            found.append(Given(name, "constant", spec.target, exported.constants[spec.target].detach()))
        else:
            raise refuse(f"{type(made.module).__name__} is given a {kind.lower()}", "pass tensors and numbers only")
    return tuple(found)


def _node(node: Any) -> Node:
    import torch

    source = _source(node.meta.get("stack_trace") or "")
    value = node.meta.get("val")
    shape: Any = None
    if isinstance(value, torch.Tensor):
        shape = _lengths(value, source)
    elif isinstance(value, tuple | list):
        shape = tuple(_lengths(v, source) if isinstance(v, torch.Tensor) else () for v in value)
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        arguments = {str(k): _argument(a) for k, a in enumerate(node.args)}
        return Node(node.name, getattr(node.target, "__name__", str(node.target)), arguments, shape, source)
    operator = schema.name.replace("::", ".")
    arguments = {}
    for k, argument in enumerate(schema.arguments):
        if (operator, argument.name) == ("aten.einsum", "path"):  # a contraction order that torch chooses by lengths
            continue
        given = node.args[k] if k < len(node.args) else node.kwargs.get(argument.name, _default(argument))
        arguments[argument.name] = _argument(given)
    if operator in _NUMBERS:
        raise refuse(
            "a number is read out of a tensor (.item() or similar), so the program depends on values",
            "compute with the tensor itself",
            source,
        )
    return Node(node.name, operator, arguments, shape, source)


def _block(node: Any, graph: Any) -> list[Node]:
    """Return the operators of a block that runs with gradients switched off or on, renamed to be unique.

    The results of a block without gradients are detached: a step holds them fixed.
    """
    enabled, held, *operands = node.args
    inner = getattr(graph.owning_module, held.target).graph
    names: dict[str, str] = {}
    found: list[Node] = []
    given = iter(operands)
    for part in inner.nodes:
        if part.op == "placeholder":
            names[part.name] = next(given).name
        elif part.op == "output":
            step = "aten.alias" if enabled else "aten.detach"
            results = [Reference(names[a.name]) for a in _flat(part.args[0])]
            shapes = [_shape_of(a) for a in _flat(part.args[0])]
            for user in node.users:
                k = int(user.args[1])
                found.append(Node(user.name, step, {"self": results[k]}, shapes[k], ""))
        else:
            made = _node(part)
            names[made.name] = f"{node.name}_{made.name}"
            arguments = {k: _renamed(a, names) for k, a in made.arguments.items()}
            found.append(Node(names[made.name], made.operator, arguments, made.shape, made.source))
    return found


def _renamed(argument: Any, names: Mapping[str, str]) -> Any:
    if isinstance(argument, Reference):
        return Reference(names[argument.name])
    return tuple(_renamed(a, names) for a in argument) if isinstance(argument, tuple) else argument


def _shape_of(node: Any) -> tuple[int, ...]:
    return tuple(map(int, node.meta["val"].shape))


def _lengths(value: Any, source: str) -> tuple[int, ...]:
    """Return the shape of a result; refuse one that depends on values."""
    if not all(isinstance(n, int) for n in value.shape):
        raise refuse(
            "the shape of a result depends on the values of a tensor",
            "multiply by a mask, or use torch.where, instead of selecting by one",
            source,
        )
    return tuple(value.shape)


def _default(argument: Any) -> Any:
    return argument.default_value if argument.has_default_value() else None


def _argument(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_argument, value))
    if hasattr(value, "op") and hasattr(value, "name"):
        return Reference(value.name)
    return value


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [part for entry in value for part in _flat(entry)]
    if isinstance(value, dict):
        return _flat(list(value.values()))
    return [value]


def _first_real(nodes: list[Any]) -> str:
    """Return the name of the first output that holds real numbers."""
    import torch

    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return str(node.name)
    raise refuse("the module's forward returns no tensor of real numbers", "return the output as a tensor")


def _source(trace: str) -> str:
    """Return the innermost line of source outside the libraries, with its file and number."""
    frames = [m.groupdict() for m in _FRAME.finditer(trace)]
    own = [f for f in frames if not any(word in f["file"] for word in _LIBRARY)] or frames
    if not own:
        return ""
    text = own[-1]["text"].strip()
    return f"{Path(own[-1]['file']).name}, line {own[-1]['line']}{f': {text}' if text else ''}"
