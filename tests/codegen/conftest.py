"""The solved maps, their programs and plans, and a generated package that is not the committed one."""

import functools
import importlib
import sys

import pytest

import derive
from codegen.lower.gathering import lower
from codegen.passes.reassociate import gradients
from codegen.plans.rows import plan

MAPS = ["affine-like", "norm-like", "linear/norm-like"]


@functools.cache
def solutions():
    found = [m for name in ("affine", "linear") for m in derive.solve(derive.layer(name))]
    return {m.mapped.name: m for m in found}


@pytest.fixture(params=MAPS)
def solution(request):
    return solutions()[request.param]


@pytest.fixture
def forward(solution):
    return lower(solution.mapped)


@pytest.fixture
def backward(forward):
    return gradients(forward, [v.name for v in forward.inputs])


@functools.cache
def _plan(name):
    return plan(solutions()[name])


@pytest.fixture
def planned(solution):
    return _plan(solution.mapped.name)


@pytest.fixture
def import_package(monkeypatch):
    """Import a package from a folder and forget it again after the test."""
    imported = []

    def load(folder, name):
        monkeypatch.syspath_prepend(str(folder))
        imported.append(name)
        return importlib.import_module(name)

    yield load
    for name in [m for m in sys.modules if m.split(".")[0] in imported]:
        del sys.modules[name]
