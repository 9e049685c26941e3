"""A generated package whose CUDA kernels run on the CPU, and the texts that it is made of."""

import functools
import importlib
import sys

import pytest

from codegen.package import families
from codegen.targets.cuda import target as cuda_target
from codegen.targets.torch import target as torch_target
from derive.cancel import solve
from derive.layers import layer
from tests.codegen.targets.cuda.host import HostCode

PACKAGE = "cuda_on_host"


@functools.cache
def chosen():
    return families(solve(layer("affine")), solve(layer("linear")))


@functools.cache
def emitted():
    return {**torch_target.files(chosen()), **cuda_target.files(chosen())}


@pytest.fixture(scope="session")
def texts():
    return emitted()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The folder of the generated package."""
    place = tmp_path_factory.mktemp("generated") / PACKAGE
    place.mkdir()
    for name, text in emitted().items():
        (place / name).write_text(text)
    return place


class Host:
    """The imported package; ``order`` is in which threads run, ``replace`` damages the source of the kernels."""

    def __init__(self, folder):
        self.functions = importlib.import_module(f"{PACKAGE}._cuda")
        self.plain = importlib.import_module(f"{PACKAGE}.functional")
        self.launch = importlib.import_module(f"{PACKAGE}._cuda_launch")
        self.compile = importlib.import_module(f"{PACKAGE}._cuda_compile")
        self.maps = [importlib.import_module(f"{PACKAGE}._cuda_{name}") for name in ("affine_like", "norm_like")]
        self.maps.append(importlib.import_module(f"{PACKAGE}._cuda_norm_like_without_bias"))
        self.order, self.replacements, self.launched = 0, (), []

    def forget(self):
        """Compile anew at the next call."""
        for module in self.maps:
            module.KERNELS._made.clear()

    def compiled(self, source, dtype, device):
        text, header = source.read_text(), (source.parent / "_cuda_rows.cuh").read_text()
        for old, new in self.replacements:
            text, header = text.replace(old, new), header.replace(old, new)
        return HostCode(text, header, self.compile.ELEMENTS[dtype], self.order, self.launched)


@pytest.fixture
def host(folder, monkeypatch, capfd):
    """The package with the host in the place of the device; a complaint of the sanitizer fails the test."""
    monkeypatch.syspath_prepend(str(folder.parent))
    made = Host(folder)
    monkeypatch.setattr(made.launch, "compiled", made.compiled)
    monkeypatch.setattr(made.launch, "_WIDE_PRODUCTS", False)  # torch has them on CUDA devices only
    made.forget()
    yield made
    made.forget()
    for name in [m for m in sys.modules if m.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    assert "runtime error" not in capfd.readouterr().err
