"""Every layer against its reference in PyTorch: the forward map, the kernel, the self factor and the backward pass.

The reference shares no code with the engine; its kernel is computed by automatic differentiation in float64.
"""

from __future__ import annotations

import math

import pytest
import torch

import derive
from derive.algebra.nodes import PartialDerivative
from derive.backward_pass import backward
from derive.compose import compose
from derive.declare import forward
from derive.forward_map import Layer, LayerError
from derive.record import Step
from tests.derive import references
from tests.derive.algebra.brute import value
from tests.derive.references import CLOSE, Trial, after, before, trial

PLAIN = {f"{word}{axis}": 1 for word in ("stride", "dilation") for axis in ("", "d", "h", "w")}
PLAIN |= {f"padding{axis}": 0 for axis in ("", "d", "h", "w")}
ROW = {**PLAIN, "B": 2, "C": 2, "O": 2, "K": 3, "L": 6}
IMAGE = {**PLAIN, "B": 1, "C": 2, "O": 2, "Kh": 2, "Kw": 3, "Lh": 4, "Lw": 5}
VOLUME = {**PLAIN, "B": 1, "C": 1, "O": 2, "Kd": 2, "Kh": 1, "Kw": 2, "Ld": 3, "Lh": 2, "Lw": 2}
TOKENS = {"n": 3, "d": 2, "R": 2, "T": 2, "S": 3, "B": 2}
DENSE = {"B": 3, "n": 4, "m": 2}
SQUARE = {"B": 2, "n": 3, "m": 3}
SPARSE_1D = {"stride": 2, "padding": 2, "dilation": 2}
SPARSE_2D = {"strideh": 2, "dilationw": 2, "paddingh": 1, "paddingw": 2}
row, image, volume = (references.convolution(*axes) for axes in (("",), "hw", "dhw"))
row_back, image_back, volume_back = (references.transposed_convolution(*axes) for axes in (("",), "hw", "dhw"))
grouped = references.grouped_convolution


def unit_then_gain(v: references.Named, s: references.Sizes) -> torch.Tensor:
    return references.gain({**v, "x": references.linear({**v, "x": references.l2_norm(v["x"])}, s)}, s)


def two_affine(v: references.Named, s: references.Sizes) -> torch.Tensor:
    return torch.nn.functional.linear(references.affine(v, s), v["W_2"], v["b_2"])


TRIALS: dict[str, Trial] = {
    "linear": trial("linear", references.linear, DENSE),
    "affine": trial("affine", references.affine, DENSE),
    "affine, one of each": trial("affine", references.affine, {"B": 1, "n": 1, "m": 1}),
    "row": trial("convolution-1d", row, ROW, {"P": 4}),
    "row, sparse": trial("convolution-1d", row, ROW, SPARSE_1D, {"P": 3}),
    "row, mostly padding": trial("convolution-1d", row, ROW, {"K": 2, "L": 1, "stride": 2, "padding": 3, "P": 3}),
    "image": trial("convolution", image, IMAGE, {"Ph": 3, "Pw": 3}),
    "image, sparse": trial("convolution", image, IMAGE, SPARSE_2D, {"Ph": 3, "Pw": 5}),
    "volume": trial("convolution-3d", volume, VOLUME, {"Pd": 2, "Ph": 2, "Pw": 1}),
    "volume, padded": trial("convolution-3d", volume, VOLUME, {"strided": 2, "paddingd": 1, "Pd": 2, "Ph": 2, "Pw": 1}),
    "groups": trial("grouped-convolution", grouped, IMAGE, {"G": 2, "Ph": 3, "Pw": 3}),
    "depthwise": trial(
        "grouped-convolution", grouped, IMAGE, {"G": 3, "C": 1, "O": 1, "paddingw": 1, "Ph": 3, "Pw": 5}
    ),
    "one group, sparse": trial("grouped-convolution", grouped, IMAGE, SPARSE_2D, {"G": 1, "Ph": 3, "Pw": 5}),
    "row back": trial("transposed-convolution-1d", row_back, ROW, {"L": 3, "Q": 5}),
    "row back, sparse": trial("transposed-convolution-1d", row_back, ROW, SPARSE_1D, {"L": 3, "padding": 1, "Q": 7}),
    "image back": trial(
        "transposed-convolution",
        image_back,
        IMAGE,
        {"Lh": 2, "Lw": 2, "strideh": 2, "stridew": 3, "paddingw": 1, "Qh": 4, "Qw": 4},
    ),
    "volume back": trial(
        "transposed-convolution-3d", volume_back, VOLUME, {"Ld": 2, "Lw": 1, "strided": 2, "Qd": 4, "Qh": 2, "Qw": 2}
    ),
    "embedding": trial("embedding", references.embedding, {"B": 2, "T": 3, "V": 4, "n": 2}),
    "embedding-bag": trial("embedding-bag", references.embedding_bag, {"B": 3, "T": 4, "V": 3, "n": 2}),
    "scores": trial("attention", references.scores, TOKENS),
    "unit scores": trial("qk-norm>attention", references.qk_norm_scores, TOKENS),
    "projection": trial("attention-projection", references.projection, TOKENS),
    "value path": trial("attention-value", references.value_path, TOKENS, positive=("E",)),
    "output projection": trial("attention-output", references.output_projection, TOKENS, {"m": 3}),
    "low rank": trial("low-rank", references.low_rank, SQUARE, {"k": 2}),
    "gated": trial("gated", references.gated, DENSE),
    "gain": trial("gain", references.gain, DENSE),
    "l2-norm before": trial("l2-norm>affine", before(references.l2_norm, references.affine), DENSE),
    "rms-norm before": trial("rms-norm>affine", before(references.rms_norm, references.affine), DENSE),
    "layer-norm before": trial("layer-norm>affine", before(references.layer_norm, references.affine), DENSE),
    "batch-norm before": trial("batch-norm>affine", before(references.batch_norm, references.affine), DENSE),
    "l2-norm after": trial("affine>l2-norm", after(references.l2_norm, references.affine), SQUARE),
    "rms-norm after": trial("affine>rms-norm", after(references.rms_norm, references.affine), SQUARE),
    "layer-norm after": trial("affine>layer-norm", after(references.layer_norm, references.affine), SQUARE),
    "batch-norm after": trial("affine>batch-norm", after(references.batch_norm, references.affine), {**DENSE, "n": 2}),
    "gain after rms-norm": trial("rms-norm>gain", before(references.rms_norm, references.gain), DENSE),
    "gain after a linear map": trial("l2-norm>linear>gain", unit_then_gain, DENSE),
    "two affine maps": trial("affine>affine", two_affine, DENSE, {"m_2": 2}),
}

trials = pytest.mark.parametrize("made", TRIALS.values(), ids=TRIALS.keys())


@trials
def test_the_forward_map_is_the_references(made: Trial) -> None:
    output, world = made.output(), made.world()
    assert tuple(output.shape) == tuple(made.world_size(i.size) for i in made.layer.output.indices)
    for place, _ in made.places(most=40):
        at = dict(zip(made.layer.output.indices, place, strict=True))
        assert value(made.layer.output.expression, at, world) == pytest.approx(
            float(output[place]), rel=CLOSE, abs=CLOSE
        )


@trials
def test_the_kernel_is_that_of_automatic_differentiation(made: Trial) -> None:
    derivation, kernel, world = derive.effective_update(made.layer), made.kernel(), made.world()
    indices = made.layer.output.indices
    for here, there in made.places():
        at = dict(zip((*indices, *(i.primed() for i in indices)), here + there, strict=True))
        assert value(derivation.kernel, at, world) == pytest.approx(float(kernel[here + there]), rel=CLOSE, abs=CLOSE)


@trials
def test_the_self_factor_is_the_kernel_at_one_sample(made: Trial) -> None:
    derivation, kernel, world = derive.effective_update(made.layer), made.kernel(), made.world()
    factor, indices = derivation.self_factor, made.layer.output.indices
    assert set(derivation.samples) | set(derivation.units) == set(indices)
    units = [position for position, index in enumerate(indices) if index in derivation.units]
    for here, other in made.places():
        there = tuple(other[p] if p in units else here[p] for p in range(len(here)))
        at = dict(zip((*indices, *(i.primed() for i in indices)), here + there, strict=True))
        expected = value(factor.expression, at, world) if factor.shape == "full" or here == there else 0.0
        assert float(kernel[here + there]) == pytest.approx(float(expected), rel=CLOSE, abs=CLOSE)


def gradients_agree(made: Trial, steps: tuple[Step, ...]) -> None:
    """Compare the engine's backward pass with automatic differentiation of the reference."""
    cotangent = torch.randn(made.output().shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    world = made.world(g=cotangent)
    for step in steps:
        name = step.id.rpartition("-d")[2]
        expected = made.gradient(name, cotangent)
        (entry,) = {inert.variable for inert in step.before.atoms(PartialDerivative)}
        for place in _some(expected.shape):
            at = dict(zip(entry.indices, place, strict=True))
            assert value(step.after, at, world) == pytest.approx(float(expected[place]), rel=1e-8, abs=1e-8)


@trials
def test_the_backward_pass_is_that_of_automatic_differentiation(made: Trial) -> None:
    steps = backward(made.layer)
    real = [t.name for t in made.layer.inputs if t.values is None]
    assert [s.id.rpartition("-d")[2] for s in steps] == real + [p.name for p in made.layer.parameters]
    gradients_agree(made, steps)


def _some(shape: torch.Size, most: int = 12) -> list[tuple[int, ...]]:
    places = [tuple(int(c) for c in torch.unravel_index(torch.tensor(k), shape)) for k in range(math.prod(shape))]
    return places[:: max(1, len(places) // most)]


def test_an_unknown_layer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LayerError, match="did you mean 'affine'"):
        derive.layer("afine")
    with pytest.raises(LayerError, match="unknown layer 'nothing'"):
        derive.layer("affine>nothing")


def dense(name: str, takes: str, gives: str, sizes: str = "n m") -> Layer:
    """A linear layer between axes of given sizes."""
    return forward(
        name,
        sizes=sizes,
        inputs={"x": takes},
        parameters={"W": f"{gives} {takes}"},
        formulas=["z[i] = sum[j](W[i, j]*x[j])"],
    )


def table_of(layer: Layer) -> dict[str, tuple[str, ...]]:
    return {t.name: tuple(map(str, t.axes)) for t in (*layer.inputs, *layer.parameters)}


def test_composition_joins_sizes_and_keeps_names_apart() -> None:
    layer = derive.layer("affine>affine>affine")
    assert table_of(layer) == {
        "x": ("B", "n"),
        "W": ("m", "n"),
        "b": ("m",),
        "W_2": ("m_2", "m"),
        "b_2": ("m_2",),
        "W_3": ("m_3", "m_2"),
        "b_3": ("m_3",),
    }
    assert [d.name for d in (*layer.definitions, layer.output)] == ["z", "z_2", "z_3"]
    assert layer.name == "affine>affine>affine" and layer.title == "Affine map, then affine map, then affine map"
    assert [str(size) for size in layer.sizes] == ["B", "n", "m", "m_2", "m_3"]


def test_composition_keeps_intermediates_apart() -> None:
    layer = derive.layer("batch-norm>batch-norm>affine")
    assert [d.name for d in layer.definitions] == ["c", "v", "y", "c_2", "v_2", "y_2"]
    twice = references.before(lambda x: references.batch_norm(references.batch_norm(x)), references.affine)
    made = Trial(layer, twice, DENSE)
    output, world = made.output(), made.world()
    for place, _ in made.places(most=8):
        at = dict(zip(layer.output.indices, place, strict=True))
        assert value(layer.output.expression, at, world) == pytest.approx(float(output[place]), rel=1e-6)


def test_composition_of_convolutions_is_that_of_their_references() -> None:
    layer = derive.layer("convolution-1d>convolution-1d")
    sizes = {**ROW, "P": 4, "O_2": 1, "K_2": 2, "P_2": 2, "stride_2": 2, "dilation_2": 1, "padding_2": 0}

    def reference(v: references.Named, s: references.Sizes) -> torch.Tensor:
        return torch.nn.functional.conv1d(row(v, s), v["W_2"], v["b_2"], s["stride_2"])

    made = Trial(layer, reference, sizes)
    output, world = made.output(), made.world()
    for place, _ in made.places(most=12):
        at = dict(zip(layer.output.indices, place, strict=True))
        assert value(layer.output.expression, at, world) == pytest.approx(float(output[place]), rel=CLOSE)


def test_a_fixed_size_is_carried_on() -> None:
    layer = compose([dense("first", "n", "4"), dense("second", "n", "m")])
    assert table_of(layer) == {"x": ("B", "n"), "W": ("4", "n"), "W_2": ("m_2", "4")}
    assert table_of(compose([dense("a", "n", "3"), dense("b", "3", "m")]))["W_2"] == ("m_2", "3")


MISFITS: dict[str, tuple[Layer, Layer, str]] = {
    "axes": (derive.layer("affine"), derive.layer("convolution-1d"), "1 axes, 'convolution-1d' takes an input of 2"),
    "tokens": (derive.layer("embedding"), derive.layer("convolution"), "2 axes, 'convolution' takes an input of 3"),
    "no input": (derive.layer("affine"), derive.layer("embedding"), "no real input"),
    "two fixed sizes": (dense("a", "n", "4"), dense("b", "3", "m"), "gives 4 a sample, 'b' takes 3"),
    "a fixed size": (derive.layer("affine"), dense("b", "3", "m"), "gives m a sample, 'b' takes 3"),
    "a square": (
        derive.layer("attention-output"),
        forward(
            "square", sizes="n", inputs={"x": "n n"}, parameters={"w": "n"}, formulas=["z[i] = sum[j](w[j]*x[i, j])"]
        ),
        "gives T x m a sample, 'square' takes n x n",
    ),
}


@pytest.mark.parametrize("row", MISFITS.values(), ids=MISFITS.keys())
def test_shapes_that_do_not_meet_are_refused(row: tuple[Layer, Layer, str]) -> None:
    with pytest.raises(LayerError, match=row[2]):
        compose([row[0], row[1]])
