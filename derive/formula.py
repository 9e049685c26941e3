"""Formulas of a forward map, and angle functions, as text.

``parse_definition`` reads ``z[i] = sum[j](W[i, j]*x[j]) + b[i]`` in three stages: the syntax tree
(``arithmetic.parse``); the range of every index, from the axes that it indexes by itself (``_Formula._range``); the
SymPy expression. For any other index the text gives the size: ``sum[k:K](x[2*p + k])``.
``delta(a, b)`` is 1 where two index expressions agree.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import ClassVar

import sympy
from sympy import Expr, Symbol

from derive.algebra.index import Index, has_division, size_symbol
from derive.arithmetic import Arithmetic, parse
from derive.excerpt import Excerpt, quote, suggestion
from derive.forward_map import BATCH, Definition
from derive.indexing import axes_of, is_reduction, length, parts
from derive.names import ELEMENTARY, FUNCTIONS, MOST_AXES, Named, Namespace, identifier
from derive.reducing import Reducing


def parse_definition(
    text: str | Excerpt, names: Namespace, *, target: str | None = None, axes: Sequence[Expr] | None = None
) -> Definition:
    """Return the definition that ``text`` states, such as ``"u[i] = sum[j](W[i, j]*x[j])"``.

    ``target`` and ``axes`` are the name and the sizes that the left-hand side must have, if they are declared. The
    batch index is added in front unless ``names.batched``. Raises ``SpecError``; never evaluates the text.
    """
    excerpt = text if isinstance(text, Excerpt) else Excerpt(text)
    return _Formula(excerpt, names).definition(parse(excerpt, "exec"), target, axes)


def parse_angle(text: str | Excerpt) -> Expr:
    """Return an angle function of the positive symbol ``r``, such as ``"2*atan(r/2)"``.

    It may use ``n``, ``kappa`` and ``pi``. Raises ``SpecError``; never evaluates the text.
    """
    excerpt = text if isinstance(text, Excerpt) else Excerpt(text, "<angle>")
    tree = parse(excerpt, "eval")
    assert isinstance(tree, ast.Expression)
    return _Angle(excerpt).read(tree.body)


class _Angle(Arithmetic):
    """The language of angle functions: arithmetic in r, n, kappa and pi."""

    functions: ClassVar[tuple[str, ...]] = (*ELEMENTARY, "atan")
    fix: ClassVar[str] = f"an angle may hold numbers, r, n, kappa, pi, + - * / ** and {', '.join(functions)}"
    symbols: ClassVar[dict[str, Expr]] = {
        "r": Symbol("r", positive=True),
        "kappa": Symbol("kappa", positive=True),
        "n": size_symbol("n"),
        "pi": sympy.pi,
    }

    def name(self, node: ast.Name) -> Expr:
        """Return one of the four symbols."""
        if node.id not in self.symbols:
            near = suggestion(node.id, [*self.symbols, *self.functions])
            self.fail(node, f"unknown name {quote(node.id)}", near + self.fix)
        return self.symbols[node.id]

    def entry(self, node: ast.Subscript) -> Expr:
        """Refuse an index: an angle depends on the radius alone."""
        self.fail(node, "an angle has no indexed names", self.fix)

    def total(self, node: ast.Call, head: ast.Subscript) -> Expr:
        """Refuse a sum: an angle depends on the radius alone."""
        self.fail(node, "an angle has no sums", self.fix)


class _Formula(Reducing):
    """The language of forward maps: arithmetic in tensor entries, with sums over indices."""

    functions: ClassVar[tuple[str, ...]] = FUNCTIONS
    fix: ClassVar[str] = (
        "a formula may hold numbers, sizes, indexed names, sum[j](...) and other reductions, + - * / ** and "
        + ", ".join(FUNCTIONS)
    )

    def definition(self, tree: ast.AST, target: str | None, axes: Sequence[Expr] | None) -> Definition:
        """Return the one assignment of the tree."""
        match tree:
            case ast.Module(body=[ast.Assign(targets=[left], value=right)]):
                pass
            case _:
                example = 'write one equation, such as "z[i] = sum[j](W[i, j]*x[j])"'
                self.excerpt.fail("this is not one equation 'name[indices] = expression'", example)
        self.screen(right)
        name, binders = self._left_side(left, target, axes)
        for node in ast.walk(right):
            if isinstance(node, ast.Subscript) and not is_reduction(node):
                self.tensor(node)
        declared: Sequence[Expr | None] = axes if axes is not None else [None] * len(binders)
        for binder, size in zip(binders, declared, strict=True):
            if self.bind(binder, right, size).name == name:
                self.fail(binder, f"index {name!r} has the name of the tensor being defined", "rename the index")
        indices = (*self.names.lead, *self.scope.values())
        if not indices:
            self.fail(left, f"{name!r} has no index", "give it an index of at least one axis")
        return Definition(name, indices, self.read(right))

    def name(self, node: ast.Name) -> Expr:
        """Return a size, a scalar, or the entry of a tensor with no axes."""
        name = node.id
        if name == "pi":
            return sympy.pi
        for scalars in (self.names.sizes, self.names.scalars):
            if name in scalars:
                return scalars[name]
        for integers in (self.scope, self.names.offsets):
            if name in integers:
                return integers[name]
        if name not in self.names.tensors:
            self.unknown(node)
        named = self.names.tensors[name]
        if named.axes:
            self.fail(
                node,
                f"{name!r} has no indices here but has {axes_of(named)}",
                f"write it with its indices, {name}[{', '.join('.' for _ in named.axes)}]",
            )
        return self._real(node, named, ())

    def entry(self, node: ast.Subscript) -> Expr:
        """Return a tensor entry ``W[i, j]``."""
        if is_reduction(node):
            word = self.text(node.value)
            fix = f"write its body, such as {word}[j](W[i, j]*x[j])"
            self.fail(node, f"{word}[..] has no body", fix)
        return self._real(node, self.tensor(node), self.positions(node))

    def function(self, node: ast.Call) -> Expr:
        """Return a call of a function, ``delta(a, b)`` or ``where(condition, a, b)``."""
        word = node.func.id if isinstance(node.func, ast.Name) else ""
        if word == "delta":
            return self.delta(node)
        return self.choice(node) if word == "where" else super().function(node)

    def power(self, node: ast.BinOp) -> Expr:
        """Return a power; if its exponent is no number, setting or size, ``exp(exponent*log(base))``.

        The base of such a power must be positive, like the argument of a root or a logarithm.
        """
        if self._literal(node.right) is not None:
            return super().power(node)
        base, exponent = self.read(node.left), self.read(node.right)
        if exponent.is_Rational:
            return base ** self.sensible(node.right, exponent)
        if base.is_nonpositive:
            problem = (
                f"{quote(self.text(node.left))} is not positive: its power {quote(self.text(node.right))} is undefined"
            )
            self.fail(node, problem, "use a positive base; signs that alternate are where(j % 2 == 0, 1, -1)")
        settings = {*self.names.scalars.values(), *self.names.sizes.values()}
        if exponent.free_symbols and exponent.free_symbols <= settings:
            return base**exponent
        return sympy.exp(exponent * sympy.log(base))

    def _operation(self, node: ast.BinOp) -> Expr:
        """Return an operation; ``//`` and ``%`` of integers are index expressions."""
        if not isinstance(node.op, ast.FloorDiv | ast.Mod):
            return super()._operation(node)
        if self.is_number(node.left) or self.is_number(node.right):
            fix = "// and % are for index expressions, such as i // 2; of numbers write a quotient with /"
            self.fail(node, "this operator has no meaning for real numbers", fix)
        return self.position(node)

    def _left_side(self, left: ast.expr, target: str | None, axes: Sequence[Expr] | None) -> tuple[str, list[ast.expr]]:
        """Return the defined name and the nodes of its indices."""
        head, binders = (left.value, parts(left)) if isinstance(left, ast.Subscript) else (left, [])
        if not isinstance(head, ast.Name):
            self.fail(left, f"{quote(self.text(left))} cannot be defined", "write a name and its indices, such as z[i]")
        word = self.excerpt.cut(head.col_offset, head.end_col_offset or 0)
        if target is not None and head.id != target:
            word.fail(f"the formula defines {word.quoted}, but the output is declared as {target!r}", "use one name")
        name = identifier(word, "tensor")
        if name in self.names.known:
            word.fail(f"{name!r} is defined twice", "give the second one another name")
        if len(binders) > MOST_AXES:
            self.fail(left, f"{name!r} has {len(binders)} indices, more than {MOST_AXES}", "join some of them")
        if axes is not None and len(binders) != len(axes):
            shown = ", ".join(map(str, axes)) or "none"
            self.fail(
                left,
                f"{name!r} has {len(binders)} indices here, but its declared axes are: {shown}",
                "give it one index per axis",
            )
        return name, binders

    def bind(self, binder: ast.expr, body: ast.expr, declared: Expr | None = None) -> Index:
        """Bring the index that ``binder`` (``j`` or ``j:n``) names into scope over ``body`` and return it."""
        given = isinstance(binder, ast.Slice)
        match binder:
            case ast.Name():
                node, size = binder, declared
            case ast.Slice(lower=ast.Name() as node, upper=ast.expr() as length, step=None):
                size = self.size(length)
                if declared is not None and size != declared:
                    self.fail(length, f"size {self.text(length)!r} is declared as '{declared}'", "use one of them")
            case _:
                problem = f"{quote(self.text(binder))} is not an index to bind"
                self.fail(binder, problem, "write a plain name such as j, or with its size, j:n")
        self._free_name(node)
        index = Index(node.id, self._range(node, body, size, given))
        if node.id == BATCH.name and index != BATCH:
            self.fail(node, f"index 's' runs over '{index.size}', but 's' is the batch index, over 'B'", "rename it")
        self.scope[node.id] = index
        return index

    def _free_name(self, node: ast.Name) -> None:
        """Refuse an index whose name is taken."""
        name = identifier(self.excerpt.cut(node.col_offset, node.end_col_offset or 0), "index")
        if name in self.scope:
            self.fail(node, f"index {name!r} is already bound here", "rename the inner one")
        if name in self.names.known:
            self.fail(node, f"index {name!r} has the name of a declared size or tensor", "rename the index")
        if name == BATCH.name and not self.names.batched:
            self.fail(node, "index 's' is the batch index, which the engine puts in front by itself", "rename it")

    def _range(self, node: ast.Name, body: ast.expr, size: Expr | None, given: bool) -> Expr:
        """Return the size of an index: the declared one, or that of every axis that it indexes by itself.

        If the size is ``given`` beside the index, the axes may be longer.
        """
        origin = f"declared over '{size}'"
        for use, part, axis in self._uses(node.id, body):
            here = f"over '{axis}' in {quote(self.text(use))[1:-1]}"
            if given and sympy.expand(axis - size).is_nonnegative:
                continue  # part of a longer axis, as its text says
            if size is not None and axis != size:
                problem = f"index {node.id!r} runs {here}, but is {origin}"
                part_of = f"write {node.id}:{axis} for a part of the longer axis"
                if sympy.expand(axis - size).is_nonnegative:
                    part_of = f"write {node.id}:{size} for a part of the longer axis"
                elif given:
                    part_of = f"sum over all of it where {node.id} < {size}: a second argument of the reduction"
                fix = f"declare both axes with the same size, use two indices, or {part_of}"
                self.fail(part, problem, fix)
            size, origin = axis, f"used {here}"
        size = self._blocks(node.id, body) if size is None else size
        if size is None:
            near = self._near(node.id, body)
            self.fail(
                node,
                f"index {node.id!r} never indexes an axis on its own, so its range is unknown",
                f"write its size here, such as {node.id}:{near}, or remove it",
            )
        return size

    def _near(self, name: str, body: ast.expr) -> Expr | str:
        """Return the probable size of an index of unknown range, for a hint: of an axis, or of an index beside it."""
        for entry in (n for n in ast.walk(body) if isinstance(n, ast.Subscript) and not is_reduction(n)):
            for part, axis in zip(parts(entry), self.tensor(entry).axes, strict=True):
                if name in _names(part):
                    return axis
        for compared in (n for n in ast.walk(body) if isinstance(n, ast.Compare) and name in _names(n)):
            for other in _names(compared) - {name}:
                uses = self._uses(other, body)
                if other in self.scope or uses:
                    return self.scope[other].size if other in self.scope else uses[0][2]
        return next(iter(self.names.sizes), "3")

    def _blocks(self, name: str, body: ast.expr) -> Expr | None:
        """Return the number of blocks of an axis if the index counts them: ``g`` in ``u[g*C + c]`` over an axis G*C."""
        for entry in (n for n in ast.walk(body) if isinstance(n, ast.Subscript) and not is_reduction(n)):
            for part, axis in zip(parts(entry), self.tensor(entry).axes, strict=True):
                match part:
                    case ast.BinOp(left=ast.BinOp(left=ast.Name(id=found), op=ast.Mult(), right=block), op=ast.Add()):
                        block_size = length(block, self.names.sizes) if found == name else None
                    case _:
                        block_size = None
                count = None if block_size is None else sympy.expand(axis / block_size)
                if count is not None and not has_division(count) and count.is_integer:
                    return count
        return None

    def _uses(self, name: str, body: ast.expr) -> list[tuple[ast.Subscript, ast.expr, Expr]]:
        """Return every use of the index by itself in a tensor's brackets, with the axis, left to right."""
        entries = [n for n in ast.walk(body) if isinstance(n, ast.Subscript) and not is_reduction(n)]
        return sorted(
            (
                (entry, part, axis)
                for entry in entries
                for part, axis in zip(parts(entry), self.tensor(entry).axes, strict=True)
                if isinstance(part, ast.Name) and part.id == name
            ),
            key=lambda use: use[1].col_offset,
        )

    def _real(self, node: ast.expr, named: Named, indices: tuple[Expr, ...]) -> Expr:
        """Return an entry for use as a number."""
        if named.integer:
            self.fail(node, f"integer input {quote(self.text(node))} is used as a number", "use it in brackets only")
        return named.entry(indices)


def _names(node: ast.expr) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
