"""The C++ kernels under the sanitizers of addresses and of undefined behaviour, in a process that loads them first."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import affine_divergence
from affine_divergence.runtime import kernel_cache
from tests.emitted import file_of, shared_by

pytestmark = pytest.mark.slow
PACKAGE = Path(affine_divergence.__file__).parent
WORK = """
import random, sys, torch
torch.set_num_threads(2), random.seed(0), torch.manual_seed(0)
import watched as ad
F = ad.functional

def agree(function, shapes, dtype, **settings):
    tensors = [torch.randn(s, dtype=dtype).requires_grad_() for s in shapes]
    found = []
    for backend in ("cpp", "torch"):
        z = function(*tensors, backend=backend, **settings)
        found.append([z, *torch.autograd.grad(z.cos().sum(), tensors)])
    for ours, right in zip(*found):
        torch.testing.assert_close(ours, right, rtol=2e-3, atol=2e-3)

def some(low, high, count):
    return [random.randint(low, high) for _ in range(count)]

for turn in range(24):
    (rows,), (n, m), dtype = some(1, 64, 1), some(1, 70, 2), random.choice([torch.float32, torch.float64])
    agree(random.choice([F.affine_like, F.norm_like]), [(rows, n), (m, n), (m,)], dtype)
for turn in range(48):
    axes = turn % 3 + 1
    length, kernel, stride, padding, dilation = (some(*e, axes) for e in ((1, 12), (1, 4), (1, 3), (0, 3), (1, 2)))
    if all(l + 2 * p > d * (k - 1) for l, p, d, k in zip(length, padding, dilation, kernel)):
        inputs, outputs = some(1, 20, 2)
        function = getattr(F, f"patch_norm_conv{axes}d")
        shapes = [(4, inputs, *length), (outputs, inputs, *kernel), (outputs,)]
        form = random.choice(["affine-like", "norm-like"])
        places = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
        agree(function, shapes, dtype, form=form, **places)
print("all agree")
"""


def library(name):
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return found if Path(found).is_absolute() else ""


def run(folder, damage=()):
    """Run the work on a copy of the package, damaged perhaps, whose kernels are compiled with the sanitizers."""
    shutil.copytree(PACKAGE, folder / "watched", ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in damage:
        path = folder / "watched" / file
        assert old in path.read_text(), "the line to damage is gone: look again"
        path.write_text(path.read_text().replace(old, new))
    compiler = folder / "compiler"
    options = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined"
    compiler.write_text(f'#!/bin/sh\nexec g++ "$@" {options}\n')
    compiler.chmod(0o755)
    environment = {
        **os.environ,
        "CXX": str(compiler),
        kernel_cache.VARIABLE: str(folder / "cache"),
        "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(folder),
    }
    command = [sys.executable, "-c", WORK]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=280)


needs_sanitizers = pytest.mark.skipif(
    shutil.which("g++") is None or not (library("libasan.so") and library("libubsan.so")),
    reason="needs g++ with its sanitizers",
)


@needs_sanitizers
def test_no_access_is_wrong(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0 and done.stdout == "all agree\n", done.stdout + done.stderr[-4000:]


DAMAGE = {
    "one entry behind a row": (
        file_of("cpp", "affine_like.cpp"),
        "for (Offset k = 0; k < m; ++k)",
        "for (Offset k = 0; k <= m; ++k)",
    ),
    "no room for the scales": (
        shared_by("cpp", "patch_passes.h"),
        "room_.take(layout_.lanes()),\n",
        "room_.take(0),\n",
    ),
}


@needs_sanitizers
@pytest.mark.parametrize("name", DAMAGE)
def test_a_wrong_access_is_seen(name, tmp_path):
    done = run(tmp_path, [DAMAGE[name]])
    assert done.returncode != 0, "the damage was not seen"
