"""Far images by Triton's kernels: output and gradients of the definition, and the same bits in other images."""

import pytest
import torch

from affine_divergence.kernels.triton import patch_norm_like_centred
from affine_divergence.kernels.triton.runtime import far_patches
from tests.codegen.targets import far_images
from tests.codegen.targets.far_images import CASES, SIZES, SOME, far_problem

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # the interpreter is NumPy
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),  # torch's own, of jvp
]
cases = pytest.mark.parametrize(
    ("kind", "axes"), [pytest.param(*c, marks=[] if c in SOME else [pytest.mark.slow]) for c in CASES], ids=str
)


@cases
def test_output_and_gradients_are_those_of_the_definition(kind, axes):
    case = far_problem(kind, axes)
    for size in SIZES:
        for recompute in (True, False):
            far_images.check(case, size, "triton", recompute=recompute)
    far_images.check(case, SIZES[-1], "triton", torch.bfloat16)


@pytest.mark.parametrize(("kind", "axes"), SOME, ids=str)
def test_no_bit_of_an_image_depends_on_far_ones(kind, axes):
    far_images.check_bits(far_problem(kind, axes), "triton")


def test_channels_side_by_side_and_many_positions():
    """More positions than a program takes, entries of the gradient than a tile has, and channels than go at once."""
    case = far_images.large_problem()
    far_images.check(case, SIZES[-1], "triton", layout=torch.channels_last)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own
def test_a_graph_that_is_compiled_has_the_same_images():
    far_images.check_compiled(far_problem(*SOME[0]), "triton")


def test_forward_mode_a_map_over_images_and_second_derivatives():
    far_images.check_modes(far_problem(*SOME[0]), "triton")


DAMAGE = {
    "a far position taken for a near one": ("is_far", lambda f, pointer, near: f != f),
    "what is kept in no unit": ("in_unit", lambda tile, far: tile),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_seen(name, monkeypatch):
    part, other = DAMAGE[name]
    monkeypatch.setattr(patch_norm_like_centred, part, other)
    with pytest.raises(AssertionError):
        far_images.check(far_problem(*SOME[1]), SIZES[-1], "triton", recompute=False)


def test_a_gradient_that_is_not_summed_up_again_is_seen(monkeypatch):
    monkeypatch.setattr(far_patches, "has_values", lambda x: False)
    with pytest.raises(AssertionError):
        far_images.check(far_problem(*SOME[1]), SIZES[-1], "triton")
