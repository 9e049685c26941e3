"""The effect of optimisers on an affine map: the derived change against one step in torch."""

from __future__ import annotations

import pytest
import torch

from derive.export.text import text
from derive.forward_map import LayerError
from derive.layers import layer
from derive.optimisers import OPTIMISERS
from derive.record import Status
from derive.update import effective_update
from verify.checks.evaluate import Point, evaluate

ETA, EPS, LIMIT = 0.3, 0.05, 0.7
SIZES = {"n": 4, "m": 3, "B": 5}


def drawn(batch):
    torch.manual_seed(5)
    x, g = torch.randn(batch, 4, dtype=torch.float64), torch.randn(batch, 3, dtype=torch.float64)
    return x, g, torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)


def optimised(optimiser, x, g, W, b, before=lambda parameters: None):
    """The steps of a torch optimiser on W and b under the loss g.z."""
    W, b = (t.clone().requires_grad_() for t in (W, b))
    ((x @ W.T + b) * g).sum().backward()
    old = [W.detach().clone(), b.detach().clone()]
    before([W, b])
    optimiser([W, b]).step()
    return W.detach() - old[0], b.detach() - old[1]


def adam(x, g, W, b):
    return optimised(lambda p: torch.optim.Adam(p, lr=ETA, eps=EPS), x, g, W, b)


def clipped(x, g, W, b):
    def before(parameters):
        norm = torch.cat([p.grad.flatten() for p in parameters]).norm()
        for p in parameters:
            p.grad *= torch.clamp(LIMIT / norm, max=1)

    return optimised(lambda p: torch.optim.SGD(p, lr=ETA), x, g, W, b, before)


def normalised(x, g, W, b):
    length = (g.T @ x).square().sum() + g.sum(0).square().sum()
    return -ETA * g.T @ x / length.sqrt(), -ETA * g.sum(0) / length.sqrt()


def projected(step, W):
    return step - W * (W * step).sum() / W.square().sum()


def sgdp(x, g, W, b):
    return projected(-ETA * g.T @ x, W), -ETA * g.sum(0)


def adamp(x, g, W, b):
    step, bias = adam(x, g, W, b)
    return projected(step, W), bias


def singular(change):
    def step(x, g, W, b):
        U, S, V = torch.linalg.svd(g.T @ x, full_matrices=False)
        keep = S > 1e-12
        return -ETA * U[:, keep] @ torch.diag(change(S[keep])) @ V[keep], torch.zeros_like(b)

    return step


RULES = {
    "adam": (adam, 1),
    "normalised-gd": (normalised, 5),
    "clipped-gd": (clipped, 5),
    "sgdp": (sgdp, 5),
    "adamp": (adamp, 1),
    "muon": (singular(torch.ones_like), 1),
    "spectral-clipping": (singular(lambda s: s.clamp(max=LIMIT)), 1),
}


def value_of(step, x, g, W, b, **more):
    tensors = {k: v.numpy() for k, v in {"x": x, "g": g, "W": W, "b": b, **more}.items()}
    scalars = {"eta": ETA, "epsilon": EPS, "c_max": LIMIT}
    known = layer("affine")
    sizes = {**SIZES, "B": len(x)}
    indices = [i for i in known.output.indices if i in step.after.free_symbols]
    return evaluate(step.after, tuple(indices), Point(tensors, scalars, {}, sizes))


@pytest.mark.parametrize("rule", RULES)
def test_the_change_is_that_of_one_step(rule):
    taken, batch = RULES[rule]
    x, g, W, b = drawn(batch)
    moved, offset = taken(x, g, W, b)
    found = value_of(effective_update(layer("affine"), rule).step(f"{rule}-change"), x, g, W, b)
    torch.testing.assert_close(torch.from_numpy(found), x @ moved.T + offset, rtol=1e-11, atol=1e-13)


def test_sven_moves_every_loss_by_itself():
    x, g, W, b = drawn(5)
    losses = torch.rand(5, dtype=torch.float64)
    slopes = torch.cat([torch.einsum("si,sj->sij", g, x).flatten(1), g], 1)
    step = -ETA * torch.linalg.pinv(slopes) @ losses
    h = torch.linalg.solve(slopes @ slopes.T, losses)
    found = value_of(effective_update(layer("affine"), "sven").step("sven-change"), x, g, W, b, h_loss=h)
    torch.testing.assert_close(torch.from_numpy(found), x @ step[:12].reshape(3, 4).T + step[12:])
    moved = value_of(effective_update(layer("affine"), "sven").step("sven-losses"), x, g, W, b, h_loss=h)
    torch.testing.assert_close(torch.from_numpy(moved), -ETA * losses)


def test_the_safe_radius_is_pi_over_the_spread_of_slopes():
    x, g, W, b = drawn(5)
    slopes = -(x @ (g.T @ x).T + g.sum(0))
    wanted = torch.pi / (slopes.amax(-1) - slopes.amin(-1))
    found = value_of(effective_update(layer("affine"), "safe-radius").step("safe-radius"), x, g, W, b)
    torch.testing.assert_close(torch.from_numpy(found), wanted)


@pytest.mark.parametrize("rule", OPTIMISERS)
def test_every_step_is_proved(rule):
    steps = effective_update(layer("affine"), rule).check().steps
    assert {s.id: s.verdict for s in steps if s.verdict.status is not Status.PROVED} == {}


def test_a_wrong_norm_is_caught(monkeypatch):
    true = OPTIMISERS["normalised-gd"]
    monkeypatch.setattr("derive.optimisers.weighted", lambda deriver, kernel: 2 * _weighted(deriver, kernel))
    monkeypatch.setitem(OPTIMISERS, "wrong-gd", true)
    steps = effective_update(layer("affine"), "wrong-gd").check().steps
    assert [s.id for s in steps if s.verdict.status is Status.REFUTED] == [
        "affine/normalised-gd-norm",
        "affine/normalised-gd-change",
    ]


def _weighted(deriver, kernel):
    from derive.rules import weighted

    return weighted(deriver, kernel)


def test_unfit_layers_are_refused():
    with pytest.raises(LayerError, match="no parameter of two axes"):
        effective_update(layer("gain"), "muon")
    with pytest.raises(LayerError, match=r"known: sgd, momentum, .*safe-radius"):
        effective_update(layer("affine"), "lion")
    assert "sqrt" in text(effective_update(layer("linear"), "muon").step("muon-change").after)
