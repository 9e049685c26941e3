"""Damage to the package of a layer from a file must fail the check of the path that it broke.

Each mutant is an edit of a copy's text; `affdiv verify FILE.toml --package COPY` must exit with 1 and name the check.
"""

import shutil

import pytest

import affdiv
from codegen.compiler import build_layer
from codegen.package import write
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES
from tests.emitted import file_of, shared

AFFINE = file_of("torch", "affine_like.py")
NORM = file_of("torch", "norm_like.py")
SAMPLES = shared("samples.py")
CPP_AFFINE = file_of("cpp", "affine_like.cpp")
CPP_NORM = file_of("cpp", "norm_like.cpp")
CPP_LAUNCHER = file_of("cpp", "affine_like.py")
CUDA_AFFINE = file_of("cuda", "affine_like.cu")
TRITON_AFFINE = file_of("triton", "affine_like.py")
TANH, PADDED, ROW = "tanh_features", "thrice_padded", "scaled_affine"
ALONE = (  # the code for the weights' gradient alone
    "  # tanh_features/affine-like/backward-dW\n            dW = check_result(dW.contiguous(), g, (m, n))\n        if"
)
COLUMN = "(2 * i3 + i4 - pad)"
FROZEN, ENERGY = "frozen-subsets", "no-energy"

MUTANTS = {  # layer, file, original text, replacement, the check that must fail
    "+ 1 dropped": (
        TANH,
        AFFINE,
        "torch.sqrt(E + 1)",
        "torch.sqrt(E)",
        f"identity/{TANH}/affine-like/self-factor",
    ),
    "kappa ignored": (
        TANH,
        AFFINE,
        "math.sqrt(kappa) / torch",
        "1 / torch",
        f"identity/{TANH}/affine-like/self-factor",
    ),
    "wrong kappa in the backward pass": (
        TANH,
        AFFINE,
        "g_t2 / (2 * kappa)",
        "g_t2 / 2",
        f"gradient/{TANH}/affine-like/backward-dx",
    ),
    "wrong kappa in the tangent": (
        TANH,
        AFFINE,
        "f**3 / (2 * kappa)",
        "f**3 / 2",
        f"path/{TANH}/affine-like/forward-mode",
    ),
    "squares in the type of the input": (
        PADDED,
        NORM,
        "x_at.double().square()",
        "x_at.square()",
        f"path/{PADDED}/norm-like/magnitudes/float32",
    ),
    "no value where there is no energy": (
        PADDED,
        NORM,
        "torch.where(E == 0, 0, math",
        "torch.where(E == -1, 0, math",
        f"path/{PADDED}/norm-like/{ENERGY}",
    ),
    "what was kept left out of the recorded graph": (
        TANH,
        AFFINE,
        "f = kept(x, kappa)\n        return (*gradients",
        "pass\n        return (*gradients",
        f"path/{TANH}/affine-like/double-backward",
    ),
    "slope of the feature lost": (
        TANH,
        NORM,
        "dx = ((1 - torch.tanh(x.double())**2) * ",
        "dx = (1 * ",
        f"gradient/{TANH}/norm-like/backward-dx",
    ),
    "term of a sum dropped in C++": (
        TANH,
        CPP_AFFINE,
        "E_sum += ",
        "E_sum += (i0 == 0) * ",
        f"identity/{TANH}/affine-like/self-factor/cpp",
    ),
    "wrong kappa in C++": (
        TANH,
        CPP_AFFINE,
        "g_t2 / (2 * kappa)",
        "g_t2 / 2",
        f"gradient/{TANH}/affine-like/backward-dx/cpp",
    ),
    "lost guard of a gather in C++": (
        PADDED,
        CPP_NORM,
        f"{COLUMN} >= 0 && {COLUMN} < w ?",
        f"{COLUMN} < w ?",
        f"path/{PADDED}/norm-like/batches/cpp",
    ),
    "guard off by one in C++": (
        PADDED,
        CPP_NORM,
        "(2 * i1 + i2 - pad) < l ",
        "(2 * i1 + i2 - pad) < l - 1 ",
        f"path/{PADDED}/norm-like/{FROZEN}/cpp",
    ),
    "offset alone has the weights' branch in C++": (
        TANH,
        CPP_LAUNCHER,
        "        if wanted[2]:\n            db = g.new_empty((m,))",
        "        if wanted[2]:\n            db = g.new_zeros((m,))\n            return dx, dW, db, None",
        f"path/{TANH}/affine-like/{FROZEN}/cpp",
    ),
    "features of a frozen input not computed in C++": (
        TANH,
        CPP_LAUNCHER,
        f"dW = dtW.t() @ t{ALONE}",
        f"dW = dtW.t() @ x{ALONE}",
        f"path/{TANH}/affine-like/{FROZEN}/cpp",
    ),
    "range safety lost in C++": (
        PADDED,
        CPP_NORM,
        "Wide x_at_x_at_sum = 0;",
        "Element x_at_x_at_sum = 0;",
        f"path/{PADDED}/norm-like/magnitudes/cpp/float32",
    ),
    "no value where there is no energy in C++": (
        PADDED,
        CPP_NORM,
        "== 0 ? 0 : sqrt(kappa - 1)",
        "== -1 ? 0 : sqrt(kappa - 1)",
        f"path/{PADDED}/norm-like/{ENERGY}/cpp",
    ),
    "parts of several threads not added up": (
        TANH,
        CPP_AFFINE,
        "    db_parts.add_up(db_data);",
        "    std::copy_n(db_parts.of(0), m, db_data);",
        f"path/{TANH}/affine-like/batches/cpp",
    ),
    "strides ignored in C++": (
        TANH,
        CPP_LAUNCHER,
        "        x = x.contiguous()\n",
        "",
        f"path/{TANH}/affine-like/layouts/cpp",
    ),
    "kernels never launched": (
        TANH,
        CPP_LAUNCHER,
        "if ready is None",
        "if True",
        f"path/{TANH}/affine-like/kernels/cpp",
    ),
    "self factor stated without the offset": (
        TANH,
        "self_factors.py",
        "(tt + 1)",
        "(tt)",
        f"path/{TANH}/stated-self-factor/module",
    ),
    "plain layer without its offset": (
        TANH,
        file_of("torch", "plain.py"),
        "+ b",
        "+ 0 * b",
        f"gradient/{TANH}/forward/module",
    ),
    "leading axes in another order": (
        TANH,
        SAMPLES,
        "*(self._lead or ()), *z.shape[1:]",
        "*reversed(self._lead or ()), *z.shape[1:]",
        f"path/{TANH}/affine-like/batches",
    ),
    "mapped over the wrong axis": (
        TANH,
        AFFINE,
        "torch.vmap(portable, in_dims)(*arguments)",
        "torch.vmap(portable, in_dims, 1)(*arguments)",
        f"path/{TANH}/affine-like/vmap",
    ),
    "fresh weights too small": (
        TANH,
        "modules.py",
        "std=1 / abs(math.sqrt(self.kappa - 1))",
        "std=1 / math.sqrt(2 * self.kappa)",
        f"property/{TANH}/norm-like/initialisation",
    ),
    "+ 1 dropped in CUDA": (
        ROW,
        CUDA_AFFINE,
        "sqrt(q + Wide(1) / (peak * peak))",
        "sqrt(q)",
        f"path/{ROW}/affine-like/on-host/cuda",
    ),
    "wrong kappa in Triton": (
        ROW,
        TRITON_AFFINE,
        "(f * gb + u_gW) / kappa",
        "(f * gb + u_gW)",
        f"path/{ROW}/affine-like/{FROZEN}/triton",
    ),
}
QUICK = (
    "wrong kappa in the backward pass",
    "wrong kappa in the tangent",
    "no value where there is no energy",
    "leading axes in another order",
)
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MUTANTS]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Write the package of a layer once, and its file beside it."""
    folder = tmp_path_factory.mktemp("made")

    def package(name):
        if not (folder / name).exists():
            (folder / f"{name}.toml").write_text(FILES[name].text)
            write(build_layer(loads_spec(FILES[name].text)), folder / name)
        return folder / name

    return package


def verify(folder, package, *identities):
    only = [word for identity in identities for word in ("--only", identity)]
    return affdiv.run(["verify", f"{folder}.toml", "--package", str(package), *only])


@pytest.mark.parametrize("name", CASES)
def test_a_mutant_fails_the_check_of_its_path(name, made, tmp_path, capsys):
    layer, file, before, after, identity = MUTANTS[name]
    copy = shutil.copytree(made(layer), tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / file).read_text(encoding="utf-8")
    assert before in text, "the edit names a line that the package no longer has"
    (copy / file).write_text(text.replace(before, after), encoding="utf-8")
    assert verify(made(layer), copy, identity) == 1
    printed = capsys.readouterr().out
    assert f"failed: {identity} (equation {layer}" in printed
    assert f"--only {identity} --seed 0 --package {copy}" in printed


@pytest.mark.slow
@pytest.mark.parametrize("layer", [TANH, PADDED, ROW])
def test_the_package_itself_passes_every_check_that_its_mutants_fail(layer, made, capsys):
    identities = dict.fromkeys(entry[4] for entry in MUTANTS.values() if entry[0] == layer)
    assert verify(made(layer), made(layer), *identities) == 0, capsys.readouterr().out
