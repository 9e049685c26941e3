"""Mutants of the emitted text must be caught, and the text must follow a change of the mathematics."""

import dataclasses
import functools
import importlib
import re
import sys
from pathlib import Path

import pytest
import sympy
import torch

import affine_divergence
import derive
from codegen.catalogue import families
from codegen.compiler import render
from codegen.package import write
from derive.algebra.nodes import rename, tensor
from derive.forward_map import Definition
from tests.emitted import file_of, shared_by

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter is NumPy

SHAPE = (150, 24, 36)


@functools.cache
def solution():
    return derive.solve(derive.layer("affine"))["affine-like"]


@pytest.fixture
def agrees(in_pieces):
    """Whether output and gradients agree in float64, with rows whole in a tile and with rows in pieces."""

    def compare(package, expected):
        with pytest.MonkeyPatch.context() as patch:
            if not same(package.affine_like, expected):
                return False
            in_pieces(patch, sys.modules[f"{package.__package__}.affine_like"])
            return same(package.affine_like, expected)

    return compare


def same(ours, expected):
    B, n, m = SHAPE
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in ((B, n), (m, n), (m,))]
    g = torch.randn(B, m, generator=generator, dtype=torch.float64)
    pair = [function(*inputs, 1.7) for function in (ours, expected)]
    gradients = [torch.autograd.grad(z, inputs, g) for z in pair]
    both = [pair, *zip(*gradients, strict=True)]
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in both)


def twin(x, W, b, kappa):
    return kappa**0.5 * (x @ W.T + b) / torch.sqrt((x * x).sum(-1, keepdim=True) + 1)


@functools.cache
def texts():
    return render(families([solution()], []), "package", ("torch", "triton"))


FILE, TILES = file_of("triton", "affine_like.py"), shared_by("triton", "tiles.py")
DAMAGE = {  # file, text, replacement, and which occurrence to change
    "sign of the radial term, rows": (FILE, "gW - c[:, None] * u", "gW + c[:, None] * u", 1),
    "sign of the radial term, slabs": (FILE, "gW - c[:, None] * u", "gW + c[:, None] * u", 0),
    "one is dropped from the scale, rows": (FILE, "tl.sqrt(q + 1 / peak / peak)", "tl.sqrt(q)", 1),
    "one is dropped from the scale, prepass": (FILE, "tl.sqrt(q + 1 / peak / peak)", "tl.sqrt(q)", 0),
    "scale squared": (FILE, "z = f_u[:, None] * (xW", "z = f_u[:, None] * f_u[:, None] * (xW", 0),
    "bias outside the scale, wide": (
        FILE,
        "f_u[:, None] * (xW + unit[:, None] * b[None, :])",
        "f_u[:, None] * xW + b[None, :]",
        0,
    ),
    "bias outside the scale, rows": (
        FILE,
        "f_u[:, None] * (xW + unit[:, None] * b[None, :])",
        "f_u[:, None] * xW + b[None, :]",
        1,
    ),
    "sum along the other axis": (FILE, "db = tl.sum(f[:, None] * g, axis=0)", "db = tl.sum(g, axis=0)", 0),
    "bias part of the row term dropped, rows": (FILE, "c = f * (f * gb + u_gW)", "c = f * u_gW", 1),
    "bias part of the row term dropped, slabs": (FILE, "c = f * (f * gb + u_gW)", "c = f * u_gW", 0),
    "kappa dropped from the row term": (FILE, "u_gW) / kappa", "u_gW)", 1),
    "weight gradient of the unscaled input": (
        FILE,
        "dot(g_tile, u.to(g_tile.dtype)",
        "dot(g_tile, x.to(g_tile.dtype)",
        0,
    ),
    "sum not carried on": (FILE, "q += tl.sum(y * y, axis=1)", "q = tl.sum(y, axis=1)", 0),
    "product not carried on": (FILE, "gW = dot(g_tile, W_tile, gW", "gW = dot(g_tile, W_tile, gW * 0", 0),
    "columns beyond the end": (
        TILES,
        "mask=(rows < row_end)[:, None] & (columns < column_end)[None, :], other=0.0",
        "mask=(rows < row_end)[:, None] & (columns < column_end)[None, :], other=1.0",
        0,
    ),
    "parts lost": (FILE, "dW = dW.sum(0).to(x.dtype) if parts > 1", "dW = dW[0].to(x.dtype) if parts > 1", 0),
    "one block of rows too few": (
        TILES,
        "return part, max(1, triton.cdiv(length, part))",
        "return part, max(1, length // part)",
        0,
    ),
}


def changed(text, old, new, which):
    places = [m.start() for m in re.finditer(re.escape(old), text)]
    assert len(places) > which, f"{old!r} is no longer emitted; choose other damage"
    place = places[which]
    return text[:place] + new + text[place + len(old) :]


def test_what_is_emitted_agrees(agrees, tmp_path, import_package):
    write(texts(), tmp_path / "sound")
    assert agrees(import_package(tmp_path, "sound"), twin)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_caught(damage, agrees, tmp_path, import_package):
    file, old, new, which = DAMAGE[damage]
    name = "damaged_" + re.sub(r"\W+", "_", damage)
    write({**texts(), file: changed(texts()[file], old, new, which)}, tmp_path / name)
    assert not agrees(import_package(tmp_path, name), twin)


kappa = sympy.Symbol("kappa", positive=True)


def scaled(change):
    """Return the solution with another scale, a function of the old one."""
    layer = solution().mapped
    definitions = [
        Definition(d.name, d.indices, change(d.expression)) if d.name == "f" else d for d in layer.definitions
    ]
    return dataclasses.replace(solution(), mapped=dataclasses.replace(layer, definitions=tuple(definitions)))


def with_output(change):
    layer = solution().mapped
    return dataclasses.replace(solution(), mapped=layer.with_output(change(layer.output.expression)))


def doubled_bias(expression):
    return rename(expression, {e: 2 * e for e in expression.atoms(sympy.Indexed) if e.base == tensor("b")})


def five(expression):
    (length,) = expression.atoms(sympy.Indexed)
    return expression.subs(length, length + 4)


def ratio(x):
    return 1 / torch.sqrt((x * x).sum(-1, keepdim=True) + 1)


MATHEMATICS = {
    "twice the bias": (lambda: with_output(doubled_bias), lambda x, W, b, k: k**0.5 * (x @ W.T + 2 * b) * ratio(x)),
    "minus": (lambda: with_output(lambda e: -e), lambda x, W, b, k: -(k**0.5) * (x @ W.T + b) * ratio(x)),
    "other scale": (lambda: scaled(lambda e: 3 * e), lambda x, W, b, k: 3 * k**0.5 * (x @ W.T + b) * ratio(x)),
    "other constant": (
        lambda: scaled(five),
        lambda x, W, b, k: k**0.5 * (x @ W.T + b) / torch.sqrt((x * x).sum(-1, keepdim=True) + 5),
    ),
}


@pytest.mark.parametrize("change", MATHEMATICS)
def test_kernels_follow_the_mathematics(change, agrees, tmp_path, import_package):
    make, expected = MATHEMATICS[change]
    name = "other_" + re.sub(r"\W+", "_", change)
    write(render(families([make()], []), name, ("torch", "triton")), tmp_path / name)
    assert agrees(import_package(tmp_path, name), expected)
    assert not agrees(import_package(tmp_path, name), twin)


PATCHES = {  # text of PatchNorm's kernels, and its replacement
    "one dropped from the scale": ("tl.sqrt(E + 1)", "tl.sqrt(E)"),
    "scale squared": ("z = f[:, None] * h", "z = f[:, None] * f[:, None] * h"),
    "bias outside the scale": ("h = b + xW", "h = xW"),
    "sum along the other axis": ("gh += tl.sum(g * h, axis=1)", "gh += tl.sum(g * h * 0, axis=1)"),
    "sign of the row term": ("dE = -(f * f * f)", "dE = f * f * f"),
    "one of three scales": ("dE = -(f * f * f)", "dE = -(f * f)"),
    "spread without its factor": ("2 * dxx[:, None]", "dxx[:, None]"),
    "box in the place of its transpose": ("dxx = spread_sum(", "dxx = box_sum("),
    "stride left out": ("qd, qh, qw = ld // sd, lh // sh, lw // sw", "qd, qh, qw = ld, lh, lw"),
    "padding on the wrong side": ("h * sh + kh * dh - ph", "h * sh + kh * dh"),
    "beyond the edge": ("(ld % sd == 0) & (lh % sh == 0)", "(ld % sd == 0)"),
    "last channel": ("(columns < channels)[None, :], other=0.0)", "(columns + 1 < channels)[None, :], other=0.0)"),
}


def patches_agree(package):
    """Whether output and gradients equal those of torch's target, at one geometry with all features."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 6, 7, 6), (4, 3, 3, 2), (4,))
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    settings = {"stride": 2, "padding": (2, 1), "dilation": (2, 1), "groups": 2, "kappa": 1.7}
    results = []
    home = importlib.import_module(f"{package.__package__.partition('.')[0]}.functional")
    for backend in ("triton", "torch"):
        z = home.patch_norm_conv2d(*inputs, **settings, backend=backend)
        g = torch.randn(z.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        results.append([z, *torch.autograd.grad(z, inputs, g)])
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in zip(*results, strict=True))


@pytest.fixture(scope="module")
def whole():
    folder = Path(affine_divergence.__file__).parent
    paths = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {p.relative_to(folder).as_posix(): p.read_text() for p in paths}


@pytest.mark.parametrize("damage", [None, *PATCHES], ids=str)
def test_damage_to_patches_is_caught(damage, whole, tmp_path, import_package):
    old, new = PATCHES.get(damage, ("", ""))
    name = "patches_" + re.sub(r"\W+", "_", damage or "sound")
    files = [
        f for f in (file_of("triton", "patch_affine_like.py"), shared_by("triton", "patches.py")) if old in whole[f]
    ]
    assert files, f"{old!r} is no longer emitted; choose other damage"
    write({**whole, **({f: whole[f].replace(old, new) for f in files} if damage else {})}, tmp_path / name)
    assert patches_agree(import_package(tmp_path, name)) == (damage is None)
