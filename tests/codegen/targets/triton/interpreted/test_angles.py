"""Other angles from users, and mutants of the emitted kernels at one of them, which must be caught."""

import re

import pytest
import torch

from tests.codegen.targets.cuda.host import needs_compiler
from tests.codegen.targets.triton.interpreted.targets import Targets, at_angle, operands, relative_error, results
from tests.emitted import file_of, shared_by

pytestmark = [needs_compiler, pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")]

ANGLES = ["tanh(kappa*r/n)", "pi/3", "r/(1 + r)"]
ROUNDING = {torch.float64: 4e-15, torch.float32: 1e-6}


def departs(package, dtype=torch.float64, targets=("triton", "cuda")):
    """Return the names of the targets that differ from torch's in float64."""
    tensors, g = operands((20, 24, 36), dtype)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    expected = results(package.functions["torch"].angle_like, exact, g.double())
    return [
        target
        for target in targets
        for ours, right in zip(results(package.functions[target].angle_like, tensors, g), expected, strict=True)
        if not relative_error(ours, right) <= ROUNDING[dtype]
    ]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Build a package, forgotten after the test."""
    packages = []

    def build(texts, name, *replace):
        packages.append(Targets(texts, tmp_path / name, monkeypatch, replace))
        return packages[-1]

    yield build
    for package in packages:
        package.forget()


@pytest.mark.parametrize("angle", ANGLES)
def test_every_target_follows_the_angle(made, angle):
    package = made(at_angle(angle), "angle_" + re.sub(r"\W+", "_", angle))
    assert not departs(package) and not departs(package, torch.float32)


TILES, KERNELS = file_of("triton", "angle_like.py"), file_of("cuda", "angle_like.cu")
SHARED = shared_by("triton", "functions.py")
DAMAGE = {  # the target that must differ, the file, its text and the replacement
    "triton, sign of the weight part": (
        "triton",
        TILES,
        "z = f[:, None] * xW + h",
        "z = h[:, None] * 0 - f[:, None] * xW + h",
    ),
    "triton, scale squared": ("triton", TILES, "z = f[:, None] * xW", "z = f[:, None] * f[:, None] * xW"),
    "triton, sine for cosine": ("triton", TILES, "tl.cos(turn))", "tl.sin(turn))"),
    "triton, one dropped from rho": ("triton", TILES, "tl.sqrt(1 / r / r + 1)", "tl.sqrt(1 / r / r)"),
    "triton, slope of the angle": ("triton", TILES, "(kept * kept + 1)", "(kept * kept)"),
    "triton, sign of the radial term": (
        "triton",
        TILES,
        "c2[:, None] * u + f",
        "f[:, None] * gW - c2[:, None] * u - 0 * f",
    ),
    "triton, sum along the other axis": (
        "triton",
        TILES,
        "db = tl.sum(h[:, None] * g, axis=0)",
        "db = tl.sum(g, axis=0)",
    ),
    "triton, near rows by the formula": ("triton", TILES, "near >= r", "near < 0 * r"),
    "triton, arc tangent": ("triton", SHARED, "- angle, angle)", "+ angle, angle)"),
    "triton, unscaled weight gradient": ("triton", TILES, "p_u = p[:, None] * u", "p_u = p[:, None] * x"),
    "cuda, sign of the weight part": ("cuda", KERNELS, "f * xW[k]", "-f * xW[k]"),
    "cuda, scale squared": ("cuda", KERNELS, "f * xW[k]", "f * f * xW[k]"),
    "cuda, sine for cosine": ("cuda", KERNELS, ": cos(turn))", ": sin(turn))"),
    "cuda, one dropped from rho": ("cuda", KERNELS, "sqrt(1 + Wide(1) / (r * r))", "sqrt(Wide(1) / (r * r))"),
    "cuda, slope of the angle": ("cuda", KERNELS, "(1 + kept * kept)", "(kept * kept)"),
    "cuda, sign of the radial term": ("cuda", KERNELS, "c2 * u", "-c2 * u"),
    "cuda, scale left out of db": ("cuda", KERNELS, "sum += h * g;", "sum += g + 0 * h;"),
}


@pytest.fixture(scope="module")
def texts():
    return at_angle("atan(r)/2")


def test_what_is_emitted_agrees(made, texts):
    assert not departs(made(texts, "sound"))


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_caught(made, texts, name):
    target, *replace = DAMAGE[name]
    package = made(texts, "damaged_" + re.sub(r"\W+", "_", name), replace)
    assert departs(package, targets=(target,))
