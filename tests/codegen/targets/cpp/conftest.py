"""The generated package with its C++ kernels: what they ran is listed, and their sources can be damaged."""

import shutil

import pytest

from affine_divergence import _cpp, _cpp_affine_like, _cpp_compile, _cpp_launch, _cpp_norm_like
from affine_divergence import _cpp_norm_like_without_bias as _bare

MAPS = (_cpp_affine_like, _cpp_norm_like, _bare)


def pytest_collection_modifyitems(items):
    """Skip what needs a compiler where there is none."""
    for item in items:
        if _cpp_compile.missing() and "targets/cpp" in str(item.path):
            item.add_marker(pytest.mark.skip(reason=_cpp_compile.missing()))


class Host:
    """The functions over kernels in C++; ``replace`` damages their sources."""

    functions, maps = _cpp, MAPS

    def __init__(self, folder):
        self._folder, self.launched = folder, []

    def compiled(self, source, dtype, replacements):
        for path in (source, *source.parent.glob("_cpp_*.h")):
            text = path.read_text()
            for old, new in replacements:
                text = text.replace(old, new)
            (self._folder / path.name).write_text(text)
        return _cpp_compile.compiled.__wrapped__(self._folder / source.name, dtype)


class Listed:
    """Compiled code whose calls are listed by the names of the kernels."""

    def __init__(self, code, launched):
        self._code, self._launched = code, launched

    def __getattr__(self, name):
        function = getattr(self._code, name)

        def kernel(*values):
            self._launched.append(name)
            function(*values)

        return kernel


def forget():
    for module in MAPS:
        module.KERNELS._made.clear()


@pytest.fixture
def host(tmp_path, monkeypatch):
    made = Host(tmp_path)

    def damage(*replacements):
        monkeypatch.setattr(
            _cpp_launch, "compiled", lambda s, t: Listed(made.compiled(s, t, replacements), made.launched)
        )
        forget()

    made.damage = damage
    monkeypatch.setattr(_cpp_launch, "compiled", lambda s, t: Listed(_cpp_compile.compiled(s, t), made.launched))
    forget()
    yield made
    monkeypatch.undo()
    forget()
    shutil.rmtree(tmp_path, ignore_errors=True)
