"""Without a home folder, disk space or a compiler: torch's operations, at most one warning, no exception."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from affine_divergence.runtime import backends, kernel_cache

ROOT = Path(__file__).parents[4]
RUN = """
import resource, signal, sys, warnings
if sys.argv[1] == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
import torch
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import affine_divergence as ad
    from affine_divergence.runtime import backends
    torch.manual_seed(0)
    for make, shape in (
        (lambda **more: ad.AffineLike(64, 8, **more), (64, 64)),
        (lambda **more: ad.NormLike(64, 8, **more), (64, 64)),
        (lambda **more: ad.PatchNormConv2d(4, 4, 3, **more), (4, 4, 12, 12)),
    ):
        layer, x = make(), torch.randn(shape)
        ours = layer(x)
        layer.backend = "torch"
        torch.testing.assert_close(ours, layer(x), rtol=1e-4, atol=1e-4)
        ours.sum().backward()
kinds = {pair[0].__module__.split(".")[2] for pair in backends._ON_HOST.values()}
told = [str(w.message).splitlines()[0] for w in told if issubclass(w.category, RuntimeWarning)]
print(*kinds, len(told), *told)
"""


def script(folder, text):
    """Return a program that replaces the compiler."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def run(way="", user=None, **variables):
    """Return the output of ``RUN`` in an environment with only these variables."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    before = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    done = subprocess.run(
        [*before, sys.executable, "-c", RUN, way], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


NO_KERNELS = {
    "no folder there": (lambda folder: {"HOME": "/dev/null/none"}, "torch 1 the cache folder"),
    "a file for a folder": (lambda folder: {kernel_cache.VARIABLE: "/dev/full"}, "torch 1 the cache folder"),
    "no compiler": (lambda folder: {"CXX": "/nonexistent", "HOME": str(folder)}, "torch 0"),
    "a compiler that fails": (
        lambda folder: {"CXX": str(script(folder, "exit 3")), "HOME": str(folder)},
        "torch 1 {folder}/compiler could not compile",
    ),
    "a compiler that writes nothing": (
        lambda folder: {"CXX": str(script(folder, "exit 0")), "HOME": str(folder)},
        "torch 1 {folder}/compiler could not compile affine_like.cpp: it wrote no code",
    ),
    "a compiler that writes no code": (
        lambda folder: {
            "CXX": str(script(folder, 'while [ "$1" != -o ]; do shift; done; echo no > "$2"')),
            "HOME": str(folder),
        },
        "torch 1 the compiled kernels of affine_like.cpp cannot be loaded",
    ),
}
OFTEN = {"a compiler that writes nothing"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in OFTEN else pytest.mark.slow) for n in NO_KERNELS])
def test_torchs_operations_and_one_warning(name, tmp_path):
    variables, words = NO_KERNELS[name]
    assert run(**variables(tmp_path)).startswith(words.format(folder=tmp_path))


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    """Neither the compiler nor the package can write files of more than a few bytes."""
    assert run("full", HOME=str(tmp_path)).startswith("torch 1 ")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root")
def test_a_user_without_a_name_or_a_home_has_kernels():
    """As in a container that runs as a numeric user without an account."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        Path(folder).chmod(0o777)
        assert run(user=12345, TMPDIR=folder) == "cpp 0"
        (place,) = Path(folder).glob("affine-divergence-*")
        assert place.name == "affine-divergence-12345" and place.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_a_folder_filled_beforehand_is_not_written_to(tmp_path):
    assert run(HOME=str(tmp_path)) == "cpp 0"
    place = tmp_path / ".cache" / "affine-divergence"
    before = {p.name: p.stat().st_mtime_ns for p in place.iterdir()}
    assert run(HOME=str(tmp_path), CXX=f"{script(tmp_path, 'exit 3')}").startswith("torch 1 "), "another compiler"
    assert run("full", HOME=str(tmp_path)).startswith("torch 1 "), "no room to load code from"
    assert run(HOME=str(tmp_path)) == "cpp 0"
    assert {p.name: p.stat().st_mtime_ns for p in place.iterdir() if p.name in before} == before


def test_code_is_loaded_from_elsewhere_where_its_folder_is_read_only(monkeypatch, tmp_path):
    from affine_divergence.kernels.cpp import affine_like
    from affine_divergence.kernels.cpp.runtime import compile as cpp_compile

    places, loaded = [], cpp_compile.loaded

    def read_only(binary, place):
        places.append(place)
        if len(places) == 1:
            raise OSError(30, "Read-only file system")
        return loaded(binary, place)

    monkeypatch.setattr(cpp_compile, "loaded", read_only)
    kernels = cpp_compile.compiled.__wrapped__(affine_like.KERNELS._path, backends.torch.float32)
    assert kernels is not None and places[0] == kernel_cache.folder() != places[1]
