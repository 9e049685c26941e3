"""Distributions are complete: every file of the packages is in the wheel and in the source distribution."""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from verify.training.sweep import METHODS

_CORES = 2
PACKAGES = ("derive", "codegen", "verify", "affine_divergence")
FOR_READERS = {".md"}  # notes beside the code, which no program reads


def held(root: Path) -> Iterator[str]:
    """Yield the files of the packages that a program may read, from the project's folder."""
    for package in PACKAGES:
        for path in (root / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix not in FOR_READERS:
                yield path.relative_to(root).as_posix()


def test_every_kind_of_file_is_declared(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    kinds = ["*.py", *settings["tool"]["setuptools"]["package-data"]["*"]]
    assert [f for f in held(root) if not any(fnmatch.fnmatch(Path(f).name, kind) for kind in kinds)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_carries_its_types(root: Path, package: str) -> None:
    assert (root / package / "py.typed").is_file()


def done(*command: object, cwd: Path, seconds: int = 240) -> str:
    """Run a command that must succeed and return its output."""
    found = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=seconds)
    assert found.returncode == 0, f"{found.stdout[-2000:]}\n{found.stderr[-4000:]}"
    return found.stdout


@pytest.fixture(scope="module")
def source(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone without files of an earlier build, which could hide that a file is not declared."""
    folder = tmp_path_factory.mktemp("clone") / "source"
    done("git", "clone", "-q", root, folder, cwd=root)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's interpreter, which shares only the libraries with this one."""
    folder = tmp_path_factory.mktemp("environment")
    done(sys.executable, "-m", "venv", folder, cwd=folder)
    libraries = {p for p in sys.path if Path(p).name == "site-packages"}
    target = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages" / "libraries.pth"
    target.write_text("\n".join(sorted(libraries)) + "\n", encoding="utf-8")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def sdist(source: Path, environment: Path) -> Path:
    """The source distribution, built by the declared build system in an environment of its own."""
    tools = source.parent / "tools"
    (needed,) = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    done(sys.executable, "-m", "venv", tools, cwd=source)
    done(tools / "bin" / "pip", "install", "-q", needed, cwd=source)
    build = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
    done(tools / "bin" / "python", "-c", build, source.parent / "dist", cwd=source)
    return next((source.parent / "dist").glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, environment: Path) -> Path:
    """The wheel, built by pip from the source distribution alone."""
    done(environment, "-m", "pip", "wheel", "-q", "--no-deps", "-w", sdist.parent, sdist, cwd=sdist.parent)
    return next(sdist.parent.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_source_distribution_is_whole(source: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = done("git", "ls-files", cwd=source).splitlines()
    beside = {".gitattributes", ".gitignore"}
    assert sorted({*tracked} - names - beside) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_is_whole_and_holds_nothing_else(source: Path, wheel: Path) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert {n for n in names if Path(n).suffix not in FOR_READERS} == {"affdiv.py", *held(source)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installed_copy_does_the_main_job_from_any_folder(environment: Path, wheel: Path, tmp_path: Path) -> None:
    done(environment, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel, cwd=tmp_path)
    where = "import affine_divergence, derive, codegen, verify as v; print(v.__file__)"
    assert done(environment, "-c", where, cwd=tmp_path).startswith(str(environment.parents[1]))
    start = sum(os.times()[2:4])
    done(environment.with_name("affdiv"), "run", cwd=tmp_path)
    busy = sum(os.times()[2:4]) - start  # of the child processes: other work on the machine does not count
    assert busy / _CORES < 120
    assert (tmp_path / "affdiv-run" / "report.html").is_file()
    training = json.loads((tmp_path / "affdiv-run" / "results.json").read_text())["training"]
    assert {choice["method"] for choice in training["choices"]} == set(METHODS)
    done(environment.with_name("affdiv"), "experiment", "run", "smoke", "--store", "store", cwd=tmp_path)
    layer = "ad.AffineLike(64, 64, backend='cpp')(torch.ones(64, 64))"
    done(environment, "-W", "error", "-c", f"import torch, affine_divergence as ad; {layer}", cwd=tmp_path)
