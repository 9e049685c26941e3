"""Layers at any angle: generated on demand, cached, equal to the known layers at their angles."""

import math
from dataclasses import asdict

import pytest
import torch

import affine_divergence as ad
from derive.errors import UsageError
from verify.training import angles, identity
from verify.training.config import TrialConfig
from verify.training.data import digits
from verify.training.initialise import energy
from verify.training.layers import make_layer
from verify.training.models import build
from verify.training.trial import run_trial

ARCTAN = "atan(r)"


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Separate caches for this module, in memory and on disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for known in (angles.layer_class, angles.layers_digest):
            known.cache_clear()
        yield angles.cache_folder()
    for known in (angles.layer_class, angles.layers_digest):
        known.cache_clear()


def settings(angle=ARCTAN, **changes):
    return TrialConfig(**{"method": "angle", "learning_rate": 1.0, "angle": angle, "width": 8, **changes})


def test_at_the_arc_tangent_the_layer_is_affine_like(cached):
    found = angles.layer_class(ARCTAN)(6, 3, dtype=torch.float64)
    known = ad.AffineLike(6, 3, dtype=torch.float64)
    known.load_state_dict(found.state_dict())
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(found(x), known(x), rtol=1e-13, atol=1e-13)


def test_the_normaliser_with_eps_is_affine_like_in_its_weight_part():
    x = torch.randn(5, 6, dtype=torch.float64)
    eps, known = make_layer("rms-norm-eps", 6, 3).double(), ad.AffineLike(6, 3, dtype=torch.float64)
    with torch.no_grad():
        known.weight.copy_(eps.weight)
        known.bias.zero_()
    torch.testing.assert_close(eps(x) - eps.bias, math.sqrt(6) * known(x), rtol=1e-12, atol=1e-12)


def test_the_package_is_written_once_and_whole(cached):
    angles.layer_class(ARCTAN)
    (folder,) = cached.iterdir()
    before = (folder / "manifest.json").stat()
    angles.layer_class.cache_clear()
    angles.layer_class(ARCTAN)
    assert (folder / "manifest.json").stat() == before
    assert [p.name for p in cached.iterdir()] == [folder.name]


def test_a_trial_at_an_angle_learns_and_records_kappa_and_exact_steps(cached):
    result = run_trial(settings(epochs=3, probe_every=30, learning_rate=3.0), digits(0))
    assert result.points[-1].validation_accuracy > 0.5
    assert {own.kappa for own in result.own_steps} == {1.0}
    assert max(own.error_float64 for own in result.own_steps) <= 1e-12
    assert max(spread.ratio for spread in result.spreads) <= 1 + 1e-9


def test_first_values_keep_the_variance(cached):
    """Independent of the layer: theory, section 2 gives f r = sqrt(kappa) sin(t(r)), here t = atan."""
    layer = angles.layer_class(ARCTAN)(50, 4)
    r2 = 50 * 0.7
    assert energy(layer, 0.7) == pytest.approx(math.sin(math.atan(math.sqrt(r2))) ** 2, rel=1e-9)
    model = build(settings(width=512, depth=1), 64, 10)
    x = torch.randn(200, 64, dtype=torch.float64)
    assert model.layers[0](x).var().item() == pytest.approx(1.0, rel=0.1)


def test_the_identity_of_a_trial_holds_the_generated_layer_and_others_are_as_they_were(cached, monkeypatch):
    with_angle = identity.trial_id(settings(), "data")
    assert with_angle != identity.trial_id(settings(angle="atan(r)*1"), "data")
    monkeypatch.setattr(angles, "layers_digest", lambda text: "another")
    assert with_angle != identity.trial_id(settings(), "data")
    plain = TrialConfig(method="none", learning_rate=1.0)
    new = ("angle", "context", "split_seed", "kernel", "groups", "halving")  # settings that came later
    assert plain.told() == {k: v for k, v in asdict(plain).items() if k not in new}


def test_what_is_scale_invariant_is_derived():
    found = {angle: angles.scale_invariant(angle) for angle in ("pi/4", "atan(sqrt(n))", ARCTAN, "(pi/4 + atan(r))/2")}
    assert list(found.values()) == [True, True, False, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"angle": "import os"}, "angle = 'import os': "),
        ({"angle": "__import__('os')"}, "angle = "),
        ({"angle": "q + r"}, "unknown name 'q'"),
        ({"angle": 3}, "angle = 3 is not text"),
        ({"angle": None}, "the method 'angle' needs an angle"),
        ({"method": "none"}, "and no other method takes one"),
    ],
)
def test_what_is_no_angle_is_named(changes, message):
    with pytest.raises(UsageError) as caught:
        settings(**changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_angle_at_which_no_input_passes_is_refused(cached):
    class Closed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.kappa = 1.0
            self.weight, self.bias = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return 0 * (x @ self.weight.T) + self.bias

    with pytest.raises(UsageError, match="at this angle the weights have no effect"):
        energy(Closed(), 1.0)
