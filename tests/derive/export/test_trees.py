"""JSON: the schema, an exact round trip, and refusal of any text that this project did not write."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as some

from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, tensor
from derive.export.json_schema import SCHEMA, derivation_from_json, derivation_to_json, map_from_json, map_to_json
from derive.export.trees import MAX_DEPTH, TreeError, from_tree, to_tree
from derive.record import Derivation

Full = Callable[[str], Derivation]
LAYERS = ("linear", "affine", "embedding-bag", "attention", "gated", "low-rank", "convolution-1d")
n = size_symbol("n")
x = tensor("x")
j = Index("j", n)


def carried(data: Any) -> Any:
    """The same data after it was written as JSON and read back."""
    return json.loads(json.dumps(data, allow_nan=False))


@pytest.mark.parametrize("name", LAYERS)
def test_the_round_trip_is_exact(full: Full, name: str) -> None:
    derivation = full(name)
    again = derivation_from_json(carried(derivation_to_json(derivation)))
    assert again == derivation
    assert [step.verdict for step in again.steps] == [step.verdict for step in derivation.steps]
    assert derivation_to_json(again) == derivation_to_json(derivation)


def test_verdicts_survive(full: Full) -> None:
    checked = full("linear").check()
    again = derivation_from_json(carried(checked.to_json()))
    assert [step.verdict for step in again.steps] == [step.verdict for step in checked.steps]


def test_a_map_alone(full: Full) -> None:
    for found in full("affine").solutions:
        assert map_from_json(carried(map_to_json(found))) == found


def test_the_schema_of_a_derivation(full: Full) -> None:
    data = full("affine").to_json()
    assert data["schema"] == SCHEMA == "affdiv.derivation/1"
    assert (data["layer"], data["rule"], data["exact_in_eta"]) == ("affine", "sgd", True)
    assert data["self_factor"] == {
        "text": "sum[j](x[s,j]**2) + 1",
        "latex": r"\lVert x_{s} \rVert^{2} + 1",
        "shape": "isotropic",
        "isotropic": True,
        "parameter_free": True,
    }
    assert data["cross_terms"]["text"] == "sum[j](x[s,j]*x[s',j]) + 1"
    for step in data["steps"]:
        assert {"id", "rule", "before", "after", "latex", "status", "method"} <= set(step)
        assert step["status"] in ("proved", "sampled", "unverified", "refuted")


def test_the_schema_of_solutions(full: Full) -> None:
    solutions = {found["name"]: found for found in full("affine").to_json()["solutions"]}
    assert {name: found["kind"] for name, found in solutions.items()} == {
        "norm-like": "normalising",
        "affine-like": "non-normalising",
    }
    found = solutions["affine-like"]
    assert found["map"]["text"] == "f[s]*(sum[j](W[i,j]*x[s,j]) + b[i])"
    assert found["residual"]["text"] == "0"
    assert found["kappa"] == "1"
    for key in ("scale_invariant", "injective", "singular_at_zero", "limit_zero", "limit_infinity", "assumptions"):
        assert key in found


NUMBER = {"op": "number", "p": 2, "q": 1}
SYMBOL = {"op": "symbol", "name": "a", "assumptions": ["positive"]}
LARGE = {"op": "number", "p": 10**50, "q": 1}


def nested(depth: int) -> Any:
    tree: Any = SYMBOL
    for _ in range(depth):
        tree = {"op": "call", "name": "exp", "args": [tree]}
    return tree


@pytest.mark.parametrize(
    "tree",
    [
        None,
        "__import__('os').system('true')",
        [],
        {},
        {"op": "eval", "args": ["1"]},
        {"op": ["add"], "args": []},
        {"op": "add"},
        {"op": "add", "args": "ab"},
        {"op": "add", "args": [1, 2]},
        {"op": "number", "p": 1},
        {"op": "number", "p": 1.5, "q": 1},
        {"op": "number", "p": True, "q": 1},
        {"op": "number", "p": 1, "q": 0},
        {"op": "number", "p": 10**100, "q": 1},
        {"op": "constant", "name": "__class__"},
        {"op": "symbol", "name": "a b", "assumptions": []},
        {"op": "symbol", "name": "", "assumptions": []},
        {"op": "symbol", "name": "é", "assumptions": []},
        {"op": "symbol", "name": "a" * 100, "assumptions": []},
        {"op": "symbol", "name": "a", "assumptions": ["commutative"]},
        {"op": "symbol", "name": "a", "assumptions": "positive"},
        {"op": "symbol", "name": "a", "assumptions": [["positive"]]},
        {"op": "index", "name": "i", "size": NUMBER, "tag": 10**12},
        {"op": "index", "name": "i", "size": None, "tag": 0},
        {"op": "entry", "tensor": "x", "indices": []},
        {"op": "entry", "tensor": "x;y", "indices": [NUMBER]},
        {"op": "sum", "body": NUMBER, "bound": []},
        {"op": "sum", "body": NUMBER, "bound": [SYMBOL]},
        {"op": "call", "name": "eval", "args": [SYMBOL]},
        {"op": "call", "name": "exp", "args": [SYMBOL, SYMBOL]},
        {"op": "call", "name": "exp", "args": []},
        {"op": "apply", "name": "__import__('os')", "args": [SYMBOL]},
        {"op": "pow", "args": [NUMBER]},
        {"op": "pow", "args": [LARGE, LARGE]},
        {"op": "pow", "args": [{"op": "pow", "args": [LARGE, {"op": "number", "p": 39, "q": 1}]}, LARGE]},
    ],
    ids=lambda tree: str(tree)[:40],
)
def test_hostile_trees_are_refused(tree: object) -> None:
    with pytest.raises(TreeError):
        from_tree(tree)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 5000])
def test_deep_trees_are_refused(depth: int) -> None:
    with pytest.raises(TreeError):
        from_tree(nested(depth))


def mutations(data: Any) -> list[tuple[str, Any]]:
    """Ways to damage a derivation's JSON."""

    def spoilt(change: Callable[[Any], object]) -> Any:
        copied = copy.deepcopy(data)
        change(copied)
        return copied

    root = ("expression", "root", "fields")

    def fields(copied: Any) -> Any:
        return copied[root[0]][root[1]][root[2]]

    return [
        ("no schema", spoilt(lambda d: d.pop("schema"))),
        ("other schema", spoilt(lambda d: d.update(schema="affdiv.derivation/2"))),
        ("no expression", spoilt(lambda d: d.pop("expression"))),
        ("expression is text", spoilt(lambda d: d.update(expression="x"))),
        ("no solutions", spoilt(lambda d: d.pop("solutions"))),
        ("solutions are text", spoilt(lambda d: d.update(solutions="x"))),
        ("a solution is a number", spoilt(lambda d: d.update(solutions=[1]))),
        ("unknown record", spoilt(lambda d: d["expression"]["root"].update(kind="Popen"))),
        ("another record", spoilt(lambda d: d["expression"].update(root=d["expression"]["records"][0]))),
        ("missing field", spoilt(lambda d: fields(d).pop("rule"))),
        ("additional field", spoilt(lambda d: fields(d).update(__class__="x"))),
        ("rule is a number", spoilt(lambda d: fields(d).update(rule=3))),
        ("order is true", spoilt(lambda d: fields(d).update(order_in_eta=True))),
        ("steps are text", spoilt(lambda d: fields(d).update(steps=["a"]))),
        ("samples are text", spoilt(lambda d: fields(d).update(samples=["a"]))),
        ("kernel is text", spoilt(lambda d: fields(d).update(kernel="x"))),
        ("layer is a later record", spoilt(lambda d: fields(d).update(layer={"record": 10**6}))),
        ("layer is record true", spoilt(lambda d: fields(d).update(layer={"record": True}))),
        ("a float", spoilt(lambda d: fields(d).update(order_in_eta=1.5))),
        ("a long text", spoilt(lambda d: fields(d).update(rule="a" * 10**6))),
        ("too many records", spoilt(lambda d: d["expression"]["records"].extend([None] * 10**5))),
    ]


def test_spoilt_derivations_are_refused(full: Full) -> None:
    for what, data in mutations(carried(full("linear").to_json())):
        with pytest.raises(TreeError):
            derivation_from_json(data)
            pytest.fail(what)


@pytest.mark.parametrize("data", [None, 3, "x", [], {}, {"schema": SCHEMA}])
def test_what_is_no_derivation_is_refused(data: Any) -> None:
    with pytest.raises(TreeError):
        derivation_from_json(data)


OPS = ["number", "constant", "symbol", "index", "entry", "sum", "call", "apply", "add", "mul", "pow"]
OPS += ["delta", "within", "divides", "derivative", "at_zero"]


def nodes(inner: some.SearchStrategy[Any]) -> some.SearchStrategy[Any]:
    """Nodes with a known op and fields of any content."""
    index = some.just(to_tree(j))
    fields = {
        "args": some.lists(inner | index, max_size=3),
        "name": some.sampled_from(["a", "exp", "pi", "Max", "a b"]),
        "p": some.integers(-5, 5),
        "q": some.integers(-1, 3),
        "assumptions": some.sampled_from([[], ["positive"], ["even"]]),
        "size": inner,
        "tag": some.integers(-2, 2),
        "tensor": some.sampled_from(["x", "1x"]),
        "indices": some.lists(inner | index, max_size=2),
        "body": inner,
        "bound": some.lists(index | inner, max_size=2),
    }
    return some.fixed_dictionaries({"op": some.sampled_from(OPS), **fields})


WORDS = some.sampled_from(["a", "add", "sum", "x", "pi", "positive"])
JSON = some.recursive(
    some.none() | some.booleans() | some.integers(-3, 3) | WORDS,
    lambda inner: some.lists(inner, max_size=3) | nodes(inner),
    max_leaves=20,
)


@settings(max_examples=500)
@given(JSON)
def test_any_json_is_an_expression_or_refused(tree: object) -> None:
    try:
        read = from_tree(tree)
    except TreeError:
        return
    assert from_tree(carried(to_tree(read))) == read


def test_unevaluated_products_keep_their_shape() -> None:
    a = sympy.Symbol("a", positive=True)
    unevaluated = sympy.Mul(2, a + 1, evaluate=False)
    again = from_tree(carried(to_tree(unevaluated)))
    assert again.args == unevaluated.args


def test_what_no_derivation_holds_is_not_written() -> None:
    with pytest.raises(TypeError, match="no JSON for gamma"):
        to_tree(sympy.gamma(sympy.Symbol("a")))
    assert from_tree(to_tree(IndexedSum(x[j], j))) == IndexedSum(x[j], j)
