"""Layers of a user's own class are replaced by maps that the compiler generates for them, and reverted."""

import copy
import json

import pytest
import torch
from torch import nn

import affine_divergence as ad


class Mixed(nn.Module):
    """An affine map of a row and of the row rolled by one, with a mask and a scale that is not a parameter."""

    def __init__(self, n, m, scale=0.5):
        super().__init__()
        self.own, self.bias = nn.Parameter(torch.randn(m, n)), nn.Parameter(torch.randn(m))
        self.turned, self.scale = nn.Linear(n, m, bias=False), scale
        self.register_buffer("mask", (torch.rand(m, n) > 0.3).float())

    def forward(self, x):
        return x @ (self.own * self.mask).T + self.scale * self.turned(x.roll(1, -1)) + self.bias


class Gated(nn.Module):
    """A product of two affine maps: no map cancels its divergence."""

    def __init__(self, n):
        super().__init__()
        self.a, self.b = nn.Linear(n, n), nn.Linear(n, n)

    def forward(self, x):
        return self.a(x) * torch.sigmoid(self.b(x))


class Scaled(nn.Module):
    """A gain of each token's entries; takes any number of tokens."""

    def __init__(self, n):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))

    def forward(self, x):
        return x * self.gain + self.shift


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Mixed(4, 4), Mixed(4, 4)
        self.gate = Gated(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.gate(torch.tanh(self.second(torch.tanh(self.first(x))))))


ALSO = {Mixed: "affine-like"}
X = torch.randn(6, 4, dtype=torch.float64)


@pytest.fixture(scope="module")
def converted():
    """A converted model, a copy of the original, and the report."""
    torch.manual_seed(0)
    model = Model().double().eval()
    before = copy.deepcopy(model)
    return before, model, ad.convert(model, also={**ALSO, Gated: "affine-like"})


def kernel(layer, x):
    """Return J J^T of one sample over all parameters, by automatic differentiation."""
    parameters = {n: p.detach() for n, p in layer.named_parameters()}
    rows = torch.func.jacrev(lambda p: torch.func.functional_call(layer, p, (x,)))(parameters)
    jacobian = torch.cat([rows[n].flatten(len(rows[n].shape) - p.dim()) for n, p in parameters.items()], -1)
    return jacobian @ jacobian.T


def test_a_captured_layer_computes_its_generated_map(converted):
    before, model, _ = converted
    energy = (X**2 @ (before.first.mask.double().T ** 2)) + 0.25 * (X**2).sum(-1, keepdim=True) + 1
    torch.testing.assert_close(model.first(X), before.first(X) / energy.sqrt())
    torch.testing.assert_close(kernel(model.first, X[0]).diag(), torch.ones(4, dtype=torch.float64))


def test_everything_but_the_class_stays(converted):
    before, model, _ = converted
    assert isinstance(model.first, Mixed) and type(model.first).__name__ == "MixedAffineLike"
    old, new = before.state_dict(), model.state_dict()
    assert list(old) == list(new) and all(torch.equal(old[k], new[k]) for k in old)
    assert type(model.first.turned) is nn.Linear and type(model.head) is ad.AffineLike
    assert not any(m.training for m in model.modules())
    assert [n for n, _ in before.named_parameters()] == [n for n, _ in model.named_parameters()]
    loss = model(X).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(copy.deepcopy(model)(X), model(X))


def test_the_report_gives_what_was_replaced_and_why_a_layer_was_left(converted):
    _, model, report = converted
    told = report.to_dict()
    assert {"name": "first", "from": "Mixed", "to": "MixedAffineLike"} in told["replaced"]
    assert not any(r["name"].startswith("first.") for r in told["replaced"])
    (left,) = [s for s in told["skipped"] if s["type"] == "Gated"]
    assert "no map 'affine-like'" in left["why"] and type(model.gate) is Gated
    assert type(model.gate.a) is ad.AffineLike, "the parts of a skipped layer must be treated like other modules"


def test_a_record_makes_the_same_of_a_plain_model_and_revert_undoes_it(converted):
    before, model, _ = converted
    record = json.loads(json.dumps(ad.record(model)))
    again = copy.deepcopy(before)
    again.load_state_dict(model.state_dict())
    ad.restore(again, record)
    torch.testing.assert_close(again(X), model(X))
    back = ad.revert(again)
    assert not back.skipped and type(again.first) is Mixed and vars(again.first).keys() == vars(before.first).keys()
    torch.testing.assert_close(again(X), before(X))
    record["layers"][0]["settings"]["captured"] = {"map": "affine-like"}
    with pytest.raises(ValueError, match="does not say what it is called with"):
        ad.restore(copy.deepcopy(before), record)


def test_hooks_of_the_layer_stay_and_hooks_inside_it_keep_it(converted):
    before, _, _ = converted
    model, seen = copy.deepcopy(before), []
    model.first.register_forward_hook(lambda *_: seen.append(1))
    model.second.turned.register_forward_hook(lambda *_: None)
    report = ad.convert(model, also=ALSO)
    model(X)
    assert seen == [1]
    assert {s.name: s.why for s in report.skipped}[
        "second"
    ] == "its part turned has hooks, which would no longer be called"


def test_an_example_tells_shapes_and_tokens_stay_free():
    model = nn.Sequential(Scaled(3), nn.Flatten(0, -2)).double()
    before = copy.deepcopy(model)
    report = ad.convert(model, example=torch.randn(2, 5, 3).double(), also={Scaled: "affine-like"})
    assert len(report.replaced) == 1, report
    for shape in ((4, 7, 3), (1, 2, 3)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(model(x), before(x) / (x**2 + 1).sqrt().flatten(0, -2))


def test_a_dry_run_and_a_filter_leave_the_layers(converted):
    before, _, _ = converted
    model = copy.deepcopy(before)
    report = ad.convert(model, dry_run=True, also=ALSO)
    assert {r.name for r in report.replaced} >= {"first", "second"} and type(model.first) is Mixed
    report = ad.convert(model, lambda module, name: name != "first", also=ALSO)
    assert type(model.first) is Mixed and type(model.second) is not Mixed


MISTAKES = [
    ("affine-like", TypeError, "also is a str; give a dict"),
    ({"Mixed": "affine-like"}, TypeError, "key 'Mixed', which is not a module class"),
    ({Mixed: 1}, TypeError, "asks for the map 1 of Mixed"),
    ({nn.Linear: "affine-like"}, ValueError, "Linear is replaced without also"),
]


@pytest.mark.parametrize(("also", "error", "words"), MISTAKES)
def test_a_wrong_request_is_refused(also, error, words):
    with pytest.raises(error, match=words):
        ad.convert(nn.Sequential(Mixed(3, 2)), also=also)


class Noisy(Mixed):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


class Pair(Mixed):
    def forward(self, x, y):
        return super().forward(x) + y


class Twofold(Mixed):
    def forward(self, x):
        return super().forward(x), x


class Clashing(Mixed):
    kappa = 3


LEFT = [
    (Noisy, "in training"),
    (Pair, "its forward takes 2 arguments; pass convert an example"),
    (Twofold, "returns 2 tensors"),
    (Clashing, "an attribute 'kappa' of its own"),
]


@pytest.mark.parametrize(("kind", "why"), LEFT)
def test_a_layer_whose_twin_cannot_be_made_stays_with_the_reason(kind, why):
    model = nn.Sequential(kind(3, 2))
    report = ad.convert(model, also={kind: "affine-like"})
    assert type(model[0]) is kind and why in {s.name: s.why for s in report.skipped}["0"]


def test_a_class_that_the_model_does_not_hold_is_named():
    with pytest.warns(UserWarning, match="holds no Gated"):
        ad.convert(nn.Sequential(nn.Linear(2, 2)), also={Gated: "affine-like"})


def test_an_absent_compiler_is_named(monkeypatch):
    monkeypatch.setattr("affine_divergence.runtime.captured_layers._COMPILER", "no_such_compiler.twins")
    with pytest.raises(ModuleNotFoundError, match="pip install affine-divergence"):
        ad.convert(nn.Sequential(Mixed(3, 2)), also=ALSO)
