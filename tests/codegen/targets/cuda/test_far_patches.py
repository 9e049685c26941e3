"""Far images by the CUDA kernels, on the CPU: output and gradients of the definition, and the same bits in others."""

from pathlib import Path

import pytest
import torch

import affine_divergence
from tests.codegen.targets import far_images
from tests.codegen.targets.cuda.host import needs_compiler
from tests.codegen.targets.far_images import CASES, SIZES, SOME, far_problem
from tests.emitted import file_of, shared_by
from verify.cuda_on_host import Host

HERE = Path(affine_divergence.__file__).parent
pytestmark = [
    needs_compiler,
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),  # torch's own, of jvp
]
cases = pytest.mark.parametrize(
    ("kind", "axes"), [pytest.param(*c, marks=[] if c in SOME else [pytest.mark.slow]) for c in CASES], ids=str
)


@pytest.fixture
def host(capfd):
    with Host() as made:
        yield made
    assert "runtime error" not in capfd.readouterr().err


@cases
def test_output_and_gradients_are_those_of_the_definition(host, kind, axes):
    case = far_problem(kind, axes)
    for size in SIZES:
        for recompute in (True, False):
            far_images.check(case, size, "cuda", recompute=recompute)
    far_images.check(case, SIZES[-1], "cuda", torch.bfloat16)


@pytest.mark.parametrize(("kind", "axes"), SOME, ids=str)
def test_no_bit_of_an_image_depends_on_far_ones(host, kind, axes):
    far_images.check_bits(far_problem(kind, axes), "cuda")


def test_channels_side_by_side(host):
    far_images.check(far_images.large_problem(), SIZES[-1], "cuda", layout=torch.channels_last)
    assert (8, 16) in {block for _, _, block in host.launched}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own
def test_a_graph_that_is_compiled_has_the_same_images(host):
    far_images.check_compiled(far_problem(*SOME[0]), "cuda")


def test_forward_mode_a_map_over_images_and_second_derivatives(host):
    far_images.check_modes(far_problem(*SOME[0]), "cuda")


MUTANTS = {
    "a far position taken for a near one": ("Rounded(scale) < near;", "Rounded(scale) < 0 * near;"),
    "a product in the library's units": ("narrow<Element>(UNIT * by", "narrow<Element>(by"),
    "an input channel left out": (
        "for (Offset n = 0; n < inner; ++n, value",
        "for (Offset n = 1; n < inner; ++n, value",
    ),
    "an entry of the kernel left out": ("entry >= 0; --entry", "entry > 0; --entry"),
    "no mark": ("*any_far = 1;", "*any_far = 0;"),
    "the mean left in the gradient": ("entry - m[block * places + place]", "entry + 0 * m[block * places + place]"),
    "the scale left out of the gradient": ("f[block * places + place] * Wide", "1e-30 * Wide"),
    "what is kept in no unit": ("is_far ? UNIT * h : h", "is_far ? 1e-9 * h : h"),
}


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.filterwarnings("ignore:.*")  # what a damaged kernel writes may be anything
def test_damage_is_seen(name):
    case = far_problem(*SOME[1])
    before, after = MUTANTS[name]
    sources = [file_of("cuda", "patch_norm_like_centred.cu"), shared_by("cuda", "patches.cuh")]
    assert any(before in (HERE / f).read_text() for f in sources), "the line to damage is gone: look again"
    with Host(watched=False) as host:
        host.replacements = ((before, after),)
        with pytest.raises(AssertionError):
            for recompute in (True, False):
                far_images.check(case, SIZES[-1], "cuda", recompute=recompute)
