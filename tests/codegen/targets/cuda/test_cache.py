"""Compiled kernels on disk: private, complete, made once, and clear messages if something is missing."""

import importlib
import os
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from tests.codegen.targets.cuda.conftest import PACKAGE
from tests.emitted import file_of, shared

posix = pytest.mark.skipif(os.name != "posix", reason="tests POSIX file modes")


@pytest.fixture
def cache(host, tmp_path, monkeypatch):
    """The cache module, with its own folder."""
    monkeypatch.setenv("AFFINE_DIVERGENCE_CACHE", str(tmp_path / "kernels"))
    return importlib.import_module(f"{PACKAGE}.runtime.kernel_cache")


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir() if not p.name.endswith(".lock"))


def test_code_is_made_once_and_kept(cache, tmp_path):
    made = []

    def make():
        made.append(1)
        return b"code"

    assert [cache.cached("ab", make) for _ in range(3)] == [b"code"] * 3
    assert len(made) == 1 and names(tmp_path / "kernels") == ["ab.cubin"]


def test_damage_is_seen_and_mended(cache, tmp_path):
    cache.cached("ab", lambda: b"code")
    path = tmp_path / "kernels" / "ab.cubin"
    for damaged in (path.read_bytes()[:-1], b"", path.read_bytes().replace(b"code", b"evil")):
        path.write_bytes(damaged)
        assert cache.cached("ab", lambda: b"anew") == b"anew"


def test_a_failure_leaves_nothing(cache, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", fails)
    with pytest.raises(cache.KernelError, match=r"No space left on device\); name another folder"):
        cache.cached("ab", lambda: b"code")
    assert names(tmp_path / "kernels") == []


@posix
def test_the_folder_is_private(cache, tmp_path):
    assert stat.S_IMODE(cache.folder().stat().st_mode) == 0o700
    (tmp_path / "kernels").chmod(0o755)
    with pytest.raises(cache.KernelError, match=r"open to other users \(mode 755\).*chmod 700"):
        cache.folder()


@posix
def test_a_link_and_a_file_are_refused(cache, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("AFFINE_DIVERGENCE_CACHE", str(tmp_path / "link"))
    with pytest.raises(cache.KernelError, match="is a link; name another in AFFINE_DIVERGENCE_CACHE"):
        cache.folder()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AFFINE_DIVERGENCE_CACHE", str(tmp_path / "file"))
    with pytest.raises(cache.KernelError, match="cannot be made"):
        cache.folder()


def test_without_the_variable_it_is_the_users_cache(cache, tmp_path, monkeypatch):
    monkeypatch.delenv("AFFINE_DIVERGENCE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "home" / "affine-divergence"


SLOW = """
import importlib.util, sys, time

specification = importlib.util.spec_from_file_location("cache", sys.argv[1])
cache = importlib.util.module_from_spec(specification)
specification.loader.exec_module(cache)
if sys.argv[2] == "without filelock":
    sys.modules["filelock"] = None

def make():
    print("made", flush=True)
    time.sleep(0.5)
    return b"code"

assert cache.cached("ab", make) == b"code"
"""


@posix
@pytest.mark.parametrize("lock", ["with filelock", "without filelock"])
def test_of_several_processes_one_compiles(cache, folder, tmp_path, lock):
    command = [sys.executable, "-c", SLOW, str(folder / shared("kernel_cache.py")), lock]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    output = [process.communicate(timeout=120)[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    assert sorted(output) == ["", "", "made\n"]


@pytest.fixture
def compiled(host, cache, monkeypatch):
    """The module that compiles, without the host's substitute."""
    kept = host.compile.core, host.compile.binary
    for function in kept:
        function.cache_clear()
    yield host.compile
    for function in kept:
        function.cache_clear()


def test_a_missing_cuda_core_is_named_with_its_mend(compiled, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(compiled.KernelError, match="pip install cuda-core"):
        compiled.core()


def test_a_tensor_elsewhere_and_a_type_without_kernels_are_refused(compiled, folder):
    source = folder / file_of("cuda", "affine_like.cu")
    with pytest.raises(compiled.KernelError, match="need tensors on a CUDA device, not on cpu"):
        compiled.compiled(source, torch.float32, torch.device("cpu"))
    with pytest.raises(compiled.KernelError, match=r"not torch\.int32; convert"):
        compiled.compiled(source, torch.int32, torch.device("cuda"))


class Recorded:
    """Replaces cuda.core and records its calls."""

    def __init__(self, fails=False):
        self.calls = []
        self._fails = fails

    def ProgramOptions(self, **options):
        return options

    def Program(self, text, language, options):
        self.calls.append((language, options["arch"], options["define_macro"]))
        if self._fails:
            raise RuntimeError("error: identifier 'zz' is undefined")
        return types.SimpleNamespace(compile=lambda kind: types.SimpleNamespace(code=b"\x7fELF" + kind.encode()))


def test_a_missing_library_is_named_with_its_mend(compiled, folder, monkeypatch):
    monkeypatch.setattr(compiled, "core", lambda: Recorded())
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(compiled.KernelError, match=r"NVRTC cannot be loaded .* install it with `pip install cuda-core"):
        compiled.binary(folder / file_of("cuda", "affine_like.cu"), "float", "sm_90")


@pytest.mark.parametrize("fails", [False, True])
def test_the_source_is_compiled_for_its_type_and_device(compiled, folder, monkeypatch, fails):
    core = Recorded(fails)
    monkeypatch.setattr(compiled, "core", lambda: core)
    bindings = types.SimpleNamespace(nvrtcVersion=lambda: (0, 13, 0))
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings", types.ModuleType("cuda.bindings"))
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    source = folder / file_of("cuda", "affine_like.cu")
    if fails:
        with pytest.raises(
            compiled.KernelError, match=r"NVRTC could not compile affine_like\.cu for Half on sm_90: er"
        ):
            compiled.binary(source, "Half", "sm_90")
        return
    assert compiled.binary(source, "Half", "sm_90") == b"\x7fELFcubin"
    assert compiled.binary(source, "Half", "sm_80") and compiled.binary(source, "float", "sm_90")
    assert core.calls == [
        ("c++", a, ("ELEMENT", e)) for e, a in (("Half", "sm_90"), ("Half", "sm_80"), ("float", "sm_90"))
    ]
    compiled.binary.cache_clear()
    compiled.binary(source, "Half", "sm_90")
    assert len(core.calls) == 3, "the second time it is loaded from disk"
