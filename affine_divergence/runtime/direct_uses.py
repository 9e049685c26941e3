"""Find modules whose code reads their children's weights directly, without calling the children, in its source.

The source of the class's ``forward`` and of the methods that it calls on ``self`` is parsed. Not found: a weight
reached through a local name, ``getattr`` or code without source. A call with an example finds those (``example_call``).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn

_WORDS = ("weight", "bias", "in_proj_weight", "in_proj_bias")
_ABOUT = frozenset(  # attributes of a tensor that do not read its values
    {"data_ptr", "device", "dim", "dtype", "element_size", "is_cpu", "is_cuda", "is_meta", "layout", "ndim", "numel"}
    | {"requires_grad", "shape", "size", "type"}
)
Path = tuple[str, ...]


def direct_uses(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules inside ``module`` whose parameters other modules' code reads, and the parameter's name.

    torch's own modules are skipped: ``convert`` knows what they read.
    """
    kind: Any = type(module)
    if kind.__module__.startswith("torch.nn.") or not module._modules:
        return
    for path, word in sorted(_in_class(kind), key=lambda found: (found[0], _WORDS.index(found[1]))):
        for part in _reached(module, path):
            yield part, word


def _reached(module: nn.Module, path: Path) -> list[nn.Module]:
    """Return the modules at a path of names from a module; ``*`` stands for every child."""
    found = [module]
    for name in path:
        found = [
            child
            for parent in found
            for word, child in parent._modules.items()
            if child is not None and name in ("*", word)
        ]
    return found


@cache
def _in_class(kind: Any) -> frozenset[tuple[Path, str]]:
    """Return the paths and parameters that a class's forward reads."""
    found: set[tuple[Path, str]] = set()
    open_names, seen = ["forward"], {"forward"}
    while open_names:
        tree = _source(getattr(kind, open_names.pop(), None))
        if tree is None:
            continue
        above = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            path = _path(node)
            if path and len(path) == 1 and path[0] not in seen:
                seen.add(path[0])
                if inspect.isfunction(getattr(kind, path[0], None)):
                    open_names.append(path[0])
            if path and len(path) > 1 and path[-1] in _WORDS and not _asks_about(node, above):
                found.add((path[:-1], path[-1]))
    return frozenset(found)


def _source(function: object) -> ast.AST | None:
    """Return the syntax tree of a function's source, or None if it has no source."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type]
    except (OSError, TypeError, SyntaxError):
        return None


def _path(node: ast.expr) -> Path | None:
    """Return ``("a", "*", "b")`` of an expression ``self.a[i].b``, else None."""
    names: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
        elif isinstance(node, ast.Subscript):
            names.append("*")
        else:
            return None
        node = node.value
    return tuple(reversed(names)) if node.id == "self" else None


def _asks_about(node: ast.Attribute, above: dict[ast.AST, ast.AST]) -> bool:
    """Whether an expression reads only a property of a tensor, such as its type, not its values."""
    parent = above.get(node)
    if isinstance(parent, ast.Attribute):
        return parent.attr in _ABOUT
    if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name):
        return parent.func.id in ("isinstance", "hasattr", "id", "type")
    return isinstance(parent, ast.Compare) and all(isinstance(op, ast.Is | ast.IsNot) for op in parent.ops)
