"""Modules of unknown kind are judged by the expression derived from their captured program, or say why not."""

import pytest
import torch
from torch import nn

import verify
from derive.algebra.patience import Deadline
from verify.diagnosis import captured_factors as captured
from verify.diagnosis.differentiation import LAW as MEASURED


class LowRank(nn.Module):
    """A frozen base and a trained product of two thin matrices."""

    def __init__(self, n, m, r):
        super().__init__()
        self.A, self.B = nn.Parameter(torch.randn(r, n)), nn.Parameter(torch.randn(m, r))
        self.register_buffer("base", torch.randn(m, n))

    def forward(self, x):
        return x @ self.base.T + x @ self.A.T @ self.B.T


class Odd(LowRank):
    def forward(self, x):
        return torch.special.i0(super().forward(x))


def diagnosed(module, width=5):
    torch.manual_seed(0)
    x, y = torch.randn(6, width), torch.randn(6, 4)
    return x, verify.diagnose(nn.Sequential(module), (x, y), nn.functional.mse_loss)


def test_a_module_of_unknown_kind_is_judged_by_its_derived_self_factor():
    module = LowRank(5, 4, 2)
    x, found = diagnosed(module)
    (layer,) = found.layers
    wide, rows = x.double(), module.B.detach().double().square().sum(1)
    expected = rows.mean() * wide.square().sum(1) + (wide @ module.A.detach().double().T).square().sum(1)
    assert layer.law == captured.LAW and layer.factors.samples == 6
    assert layer.factors.minimum == pytest.approx(float(expected.min()), rel=1e-9)
    assert layer.factors.maximum == pytest.approx(float(expected.max()), rel=1e-9)
    assert "judged by its captured program on all 6 samples, K_ss = " in layer.note


def test_where_capture_refuses_differentiation_judges_and_says_why():
    _, found = diagnosed(Odd(5, 4, 2))
    (layer,) = found.layers
    assert layer.law == MEASURED and layer.factors.samples == 3
    assert "not by capture: the operator aten.special_i0 has no rule" in layer.note


def factors(module, x, deadline=None):
    names = [n for n, _ in module.named_parameters()]
    return captured.captured_factors(module, ((x,), {}), names, module(x), deadline or Deadline(60))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("_MOST_OPERATORS", 2, "operators, more than 2"),
        ("_MOST_OUTPUTS", 3, "more than 3 outputs"),
        ("_CLOSE", -1.0, "the derived factor is"),
    ],
)
def test_bounds_and_the_measured_factor_are_kept(monkeypatch, name, value, words):
    monkeypatch.setattr(captured, name, value)
    with pytest.raises(captured.NotCaptured, match=words):
        factors(LowRank(5, 4, 2), torch.randn(3, 5))


def test_time_and_recurrent_operators_are_bounded():
    with pytest.raises(captured.NotCaptured, match=r"aten\.lstm is recurrent"):
        lstm, x = nn.LSTM(2, 3), torch.randn(2, 3, 2)
        captured.captured_factors(lstm, ((x,), {}), ["weight_ih_l0"], lstm(x)[0], Deadline(60))
    with pytest.raises(captured.NotCaptured, match="takes too long"):
        factors(LowRank(6, 4, 2), torch.randn(3, 6), Deadline(0))
