"""A generated package whose CUDA kernels run on the CPU, and its texts."""

import functools
import importlib
import sys

import pytest

from codegen.catalogue import families
from codegen.targets.cuda import target as cuda_target
from codegen.targets.torch import target as torch_target
from derive.cancel import solve
from derive.layers import layer
from tests.emitted import write_all
from verify.cuda_on_host import Host

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
    write_all(emitted(), place)
    return place


class Package(Host):
    """The imported package."""

    def __init__(self, name):
        super().__init__(name)
        self.functions = importlib.import_module(f"{name}.kernels.cuda.functional")
        self.plain = importlib.import_module(f"{name}.functional")
        self.launch = importlib.import_module(f"{name}.kernels.cuda.runtime.launch")
        self.compile = importlib.import_module(f"{name}.kernels.cuda.runtime.compile")


@pytest.fixture
def package(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder.parent))
    yield Package(PACKAGE)
    for name in [m for m in sys.modules if m.split(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def host(package, capfd):
    """The package with the host instead of the device; an error of the sanitizer fails the test."""
    with package:
        yield package
    assert "runtime error" not in capfd.readouterr().err
