"""SymPy's code printers and ``srepr``: what they refuse or get wrong, and what this project does instead."""

import ast
from pathlib import Path

import numpy
import pytest
import sympy
import torch
from sympy.printing.codeprinter import PrintMethodNotImplementedError
from sympy.printing.pytorch import torch_code

import derive
from codegen.ir.interpret import interpret
from codegen.lower.gathering import lower

ROOMS = ("derive", "codegen", "verify", "affine_divergence")


def test_a_sum_of_entries_is_refused_by_sympys_printer_and_runs_here():
    W, x = sympy.IndexedBase("W"), sympy.IndexedBase("x")
    i, j, n = sympy.symbols("i j n", integer=True, positive=True)
    with pytest.raises(PrintMethodNotImplementedError):
        torch_code(sympy.Sum(W[i, j] * x[j], (j, 0, n - 1)))
    rng = numpy.random.default_rng(0)
    given = {"x": rng.normal(size=(5, 3)), "W": rng.normal(size=(2, 3)), "b": rng.normal(size=2)}
    found = interpret(lower(derive.layer("affine")), given, {}, {"B": 5, "n": 3, "m": 2})
    numpy.testing.assert_allclose(found["z"], given["x"] @ given["W"].T + given["b"])


def test_sympys_printer_names_what_torch_does_not_have():
    assert torch_code(sympy.gamma(sympy.Symbol("x"))) == "torch.special.gamma(x)"
    assert not hasattr(torch.special, "gamma")


def test_nothing_is_stored_by_srepr_or_pickle():
    root = Path(__file__).resolve().parents[2]
    names = set()
    for path in (p for room in ROOMS for p in (root / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names |= {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
    assert names & {"srepr", "pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"} == set()
