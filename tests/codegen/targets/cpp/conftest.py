"""Fixtures for the C++ kernels: their calls are recorded, and their sources can be mutated."""

import shutil

import pytest

from affine_divergence.kernels.cpp import affine_like as cpp_affine_like
from affine_divergence.kernels.cpp import functional as cpp_functional
from affine_divergence.kernels.cpp import norm_like as cpp_norm_like
from affine_divergence.kernels.cpp import norm_like_without_bias as _bare
from affine_divergence.kernels.cpp.runtime import compile as cpp_compile
from affine_divergence.kernels.cpp.runtime import launch as cpp_launch
from tests.emitted import write_all

MAPS = (cpp_affine_like, cpp_norm_like, _bare)


def pytest_collection_modifyitems(items):
    """Skip tests that need a compiler if there is none."""
    for item in items:
        if cpp_compile.missing() and "targets/cpp" in str(item.path):
            item.add_marker(pytest.mark.skip(reason=cpp_compile.missing()))


class Host:
    """The functions over C++ kernels; ``replace`` mutates their sources."""

    functions, maps = cpp_functional, MAPS

    def __init__(self, folder):
        self._folder, self.launched = folder, []

    def compiled(self, source, dtype, replacements):
        texts = {p.relative_to(source.parent).as_posix(): p.read_text() for p in source.parent.rglob("*.h")}
        texts[source.name] = source.read_text()
        for old, new in replacements:
            texts = {name: text.replace(old, new) for name, text in texts.items()}
        write_all(texts, self._folder)
        return cpp_compile.compiled.__wrapped__(self._folder / source.name, dtype)


class Listed:
    """Compiled code that records the names of the kernels called."""

    def __init__(self, code, launched):
        self._code, self._launched = code, launched

    def __getattr__(self, name):
        function = getattr(self._code, name)

        def kernel(*values):
            self._launched.append(name)
            return function(*values)

        return kernel


def forget():
    for module in MAPS:
        module.KERNELS._made.clear()


@pytest.fixture
def host(tmp_path, monkeypatch):
    made = Host(tmp_path)

    def damage(*replacements):
        monkeypatch.setattr(
            cpp_launch, "compiled", lambda s, t: Listed(made.compiled(s, t, replacements), made.launched)
        )
        forget()

    made.damage = damage
    monkeypatch.setattr(cpp_launch, "compiled", lambda s, t: Listed(cpp_compile.compiled(s, t), made.launched))
    forget()
    yield made
    monkeypatch.undo()
    forget()
    shutil.rmtree(tmp_path, ignore_errors=True)
