"""The verifier itself: damage to the generated package must fail the check of the equation that it broke.

Each mutant is an edit of a copy's text; `affdiv verify --package` on the copy must exit with 1 and name the equation.
"""

import re
import shutil
from pathlib import Path

import pytest

import affdiv
import affine_divergence
from tests.emitted import file_of, shared

AFFINE = file_of("torch", "affine_like.py")
NORM = file_of("torch", "norm_like.py")
BARE = file_of("torch", "norm_like_without_bias.py")
ROWS = shared("rows.py")
PATCHES = shared("patches.py")
UNIT = file_of("torch", "unit.py")
VALUES = file_of("torch", "value_path.py")
IMAGES = file_of("torch", "patch_affine_like.py")
NORM_IMAGES = file_of("torch", "patch_norm_like.py")
CENTRED = file_of("torch", "patch_affine_like_centred.py")
TRANSPOSED = file_of("torch", "patch_affine_like_transposed.py")
CPP_AFFINE = file_of("cpp", "affine_like.cpp")
CPP_IMAGES = file_of("cpp", "patch_affine_like.cpp")
PACKAGE = Path(affine_divergence.__file__).parent
DX = "gradient/affine-like/backward-dx"
PATCH = "identity/grouped-convolution/affine-like/self-factor/2d"
WHOLE = "gradient/attention-output/affine-like/forward"

MUTANTS = {  # file, original text, replacement, layer, the check that must fail
    "+ 1 dropped": (
        AFFINE,
        "E.add_(1).rsqrt_()",
        "E.rsqrt_()",
        "affine",
        "identity/affine-like/self-factor",
    ),
    "+ 1 dropped where recorded": (AFFINE, "q + 1 / peak**2", "q", "affine", DX),
    "kappa ignored": (
        AFFINE,
        ".rsqrt_().mul_(math.sqrt(kappa))",
        ".rsqrt_()",
        "affine",
        "identity/affine-like/self-factor",
    ),
    "scale squared": (AFFINE, "mul_(f)  #", "mul_(f**2)  #", "affine", "gradient/affine-like/forward"),
    "bias outside the scale": (
        AFFINE,
        "z = xW.mul_(f)  #",
        "z = F.linear(x, W).mul_(f).add_(b)  #",
        "affine",
        "identity/affine-like/activation-change",
    ),
    "sign of dx": (AFFINE, "u, value=-1)", "u, value=1)", "affine", DX),
    "sign of dx where recorded": (AFFINE, "(f * gW - c * u)", "(f * gW + c * u)", "affine", DX),
    "dW unscaled": (
        AFFINE,
        "dW = g.t() @ u ",
        "dW = g.t() @ x ",
        "affine",
        "gradient/affine-like/backward-dW",
    ),
    "db unscaled": (AFFINE, "weighted_sum(f, g)", "g.sum(0)", "affine", "gradient/affine-like/backward-db"),
    "wrong axis": (
        ROWS,
        "(x, dim=-1, keepdim=True, dtype",
        "(x.t(), dim=-1, keepdim=True, dtype",
        "affine",
        "identity/affine-like/self-factor",
    ),
    "bias's share of kappa kept": (
        NORM,
        ".mul_(math.sqrt(kappa - 1))",
        ".mul_(math.sqrt(kappa))",
        "affine",
        "identity/norm-like/self-factor",
    ),
    "kappa for its root": (
        BARE,
        ".mul_(math.sqrt(kappa))",
        ".mul_(kappa)",
        "linear",
        "identity/linear/norm-like/self-factor",
    ),
    "mean not subtracted": (
        ROWS,
        "return (x - x.mean(-1, keepdim=True, dtype=wide)).to(x.dtype)",
        "return x",
        "affine",
        "gradient/centred-affine/norm-like/forward",
    ),
    "initialised by the fan": (
        "modules.py",
        "std=1 / math.sqrt(self.kappa)",
        "std=1 / math.sqrt(self.in_features)",
        "affine",
        "property/affine-like/initialisation",
    ),
    "stated factor without the bias": (
        "self_factors.py",
        "return 1 + (x**2)",
        "return (x**2)",
        "affine",
        "identity/affine/stated-self-factor",
    ),
    "stated law of convolutions": (
        "self_factors.py",
        "_as_given(sums + 1, module, x)",
        "_as_given(sums + 2, module, x)",
        "convolution",
        "identity/convolution/stated-self-factor",
    ),
    "+ 1 dropped of patches": (IMAGES, "torch.sqrt(E + 1)", "torch.sqrt(E)", "convolution", PATCH),
    "box without stride": (
        PATCHES,
        "k * dilation, stride, count) for",
        "k * dilation, 1, count) for",
        "convolution",
        PATCH,
    ),
    "box without dilation": (
        PATCHES,
        "k * dilation, stride, count) for",
        "k, stride, count) for",
        "convolution",
        PATCH,
    ),
    "box padded at one end": (
        PATCHES,
        "for p in (padding, padding)",
        "for p in (0, 2 * padding)",
        "convolution",
        PATCH,
    ),
    "sign of a patch's dx": (
        IMAGES,
        "dE = -wide(f)",
        "dE = wide(f)",
        "convolution",
        "gradient/grouped-convolution/affine-like/backward-dx/2d",
    ),
    "bias's share of kappa kept of patches": (
        NORM_IMAGES,
        "math.sqrt(kappa - 1) /",
        "math.sqrt(kappa) /",
        "convolution",
        "identity/grouped-convolution/norm-like/self-factor/2d",
    ),
    "patch's mean left in its length": (
        CENTRED,
        "difference(xx_sum, x.shape[2] * math.prod(geometry.kernel) * m**2)",
        "xx_sum",
        "convolution",
        "identity/centred-convolution/affine-like/self-factor/2d",
    ),
    "other constant, transposed": (
        TRANSPOSED,
        "torch.sqrt(E + 1)",
        "torch.sqrt(E + 2)",
        "transposed-convolution",
        "identity/grouped-transposed-convolution/affine-like/self-factor/2d",
    ),
    "+ 1 dropped in C++": (
        CPP_AFFINE,
        "sqrt(q + Wide(1) / (peak * peak))",
        "sqrt(q)",
        "affine",
        "identity/affine-like/self-factor/cpp",
    ),
    "sign of dx in C++": (CPP_AFFINE, "f * gW[k] - c * u", "f * gW[k] + c * u", "affine", f"{DX}/cpp"),
    "+ 1 dropped of patches in C++": (
        CPP_IMAGES,
        "sqrt(1 + E)",
        "sqrt(E)",
        "convolution",
        f"{PATCH}/cpp",
    ),
    "sign of a patch's dx in C++": (
        CPP_IMAGES,
        "-dh_h * (f * f)",
        "dh_h * (f * f)",
        "convolution",
        "gradient/grouped-convolution/affine-like/backward-dx/2d/cpp",
    ),
    "scores over d": (
        "attention.py",
        "1 / math.sqrt(self.head_dim)",
        "1 / self.head_dim",
        "attention",
        f"{WHOLE}/module",
    ),
    "queries longer than one": (UNIT, "f = 1 / peak", "f = 2 / peak", "attention", f"{WHOLE}/qk-norm"),
    "+ 1 dropped of values": (
        VALUES,
        "q + 1 / peak**2",
        "q",
        "attention-value",
        "identity/attention-value/affine-like/self-factor",
    ),
    "attention initialised by the fan": (
        "attention.py",
        "nn.init.normal_(weight, std=1 / math.sqrt(self.kappa))",
        "nn.init.normal_(weight, std=1 / math.sqrt(self.embed_dim + 10))",
        "attention-projection",
        "property/attention-projection/affine-like/initialisation",
    ),
    "projections left as they are": (
        "attention.py",
        "functional.affine_like(sources[0], self.in_proj_weight[:rows], self.in_proj_bias[:rows], self.kappa, "
        "backend=self.backend)",
        "F.linear(sources[0], self.in_proj_weight[:rows], self.in_proj_bias[:rows])",
        "attention-projection",
        "identity/attention-projection/affine-like/self-factor",
    ),
}
QUICK = ("+ 1 dropped", "sign of dx", "initialised by the fan", "stated factor without the bias")
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MUTANTS]


def verify(folder, layer, identity):
    """Verify one check of a package in this process, with several seeds."""
    return affdiv.run(["verify", layer, "--package", str(folder), "--only", identity])


@pytest.fixture
def copy(tmp_path):
    """A copy of the generated package."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.mark.parametrize("name", CASES)
def test_a_mutant_fails_and_names_its_equation(name, copy, capsys):
    file, before, after, layer, identity = MUTANTS[name]
    text = (copy / file).read_text(encoding="utf-8")
    assert before in text, "the edit names a line that the package no longer has"
    (copy / file).write_text(text.replace(before, after), encoding="utf-8")
    assert verify(copy, layer, identity) == 1
    printed = capsys.readouterr().out
    family, *equation = identity.replace("stated-", "").split("/")
    failure = re.search(r"failed: (\S+) \(equation ([^)]+)\)", printed)
    assert failure and failure[1] == identity
    if family != "property":
        assert all("/".join(equation).startswith(e) or e.split("/")[-1] == "forward" for e in failure[2].split(", "))
    assert f"--only {identity} --seed 0 --package {copy}" in printed


@pytest.mark.slow
def test_the_copy_itself_passes_every_check_that_the_mutants_fail(copy, capsys):
    for layer in dict.fromkeys(entry[3] for entry in MUTANTS.values()):
        ids = dict.fromkeys(entry[4] for entry in MUTANTS.values() if entry[3] == layer)
        words = [word for identity in ids for word in ("--only", identity)]
        assert affdiv.run(["verify", layer, "--package", str(copy), *words]) == 0, capsys.readouterr().out


def test_a_folder_that_is_no_package_is_refused(tmp_path, capsys):
    (tmp_path / "__init__.py").write_text("")
    assert affdiv.run(["verify", "affine", "--package", str(tmp_path)]) == 2
    assert "modules.py is missing" in capsys.readouterr().err


def test_a_package_that_cannot_be_imported_is_refused(copy, capsys):
    (copy / "__init__.py").write_text("import nowhere_to_be_found\n")
    assert affdiv.run(["verify", "affine", "--package", str(copy), "--only", "identity/affine/self-factor"]) == 2
    assert "cannot be imported: ModuleNotFoundError" in capsys.readouterr().err
