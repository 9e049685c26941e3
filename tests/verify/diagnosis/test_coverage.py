"""Layers without a plain input or a known law: norms, recurrent nets, bags, experts, any module."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import verify
from tests.verify.diagnosis.models import DOUBLE
from verify.diagnosis.captured_factors import LAW as CAPTURED
from verify.diagnosis.differentiation import LAW


class Experts(nn.Module):
    """Experts in one tensor, each token sent to one."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(3, 5, 4))

    def forward(self, x):
        route = x[:, :3].argmax(1)
        hidden = torch.einsum("nd,ndh->nh", x, self.up[route]).tanh()
        return torch.einsum("nh,nhd->nd", hidden, self.down[route])


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight."""

    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w / w.std((1, 2, 3), keepdim=True), self.bias)


class ForeignLinear(nn.Module):
    """A linear map of another library."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Squared(ForeignLinear):
    """A module that looks like a linear map but is not."""

    def forward(self, x):
        return super().forward(x).square()


class ForeignNorm(nn.Module):
    """Root mean square norm as language models write it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Bags(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.bag, self.weighted = nn.EmbeddingBag(6, 3, **settings), settings.get("mode") == "sum"

    def forward(self, t):
        weights = torch.linspace(-1, 2, len(t), dtype=DOUBLE) if self.weighted else None
        return self.bag(t, torch.tensor([0, 3, 3, 4]), weights)


def weight_normed():
    return nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))


CASES = {
    "LayerNorm": (lambda: nn.LayerNorm(4), (5, 4), "gain"),
    "LayerNorm over two axes": (lambda: nn.LayerNorm((2, 4)), (3, 2, 4), "gain"),
    "RMSNorm": (lambda: nn.RMSNorm(4), (5, 4), "gain"),
    "norm of another library": (ForeignNorm, (5, 4), "gain"),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), (5, 4), "gain"),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (2, 3, 2, 3), "gain"),
    "BatchNorm2d in evaluation": (lambda: nn.BatchNorm2d(3).eval(), (2, 3, 2, 3), "gain"),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 3), "gain"),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True), (2, 4, 3), "gain"),
    "linear of another library": (ForeignLinear, (5, 3), "affine"),
    "bags with offsets": (lambda: Bags(padding_idx=2), (7,), "linear"),
    "weighted bags": (lambda: Bags(mode="sum"), (7,), "linear"),
    "LSTM": (lambda: nn.LSTM(2, 3, batch_first=True), (3, 4, 2), LAW),
    "GRU, time first": (lambda: nn.GRU(2, 3), (4, 3, 2), LAW),
    "RNN without batch": (lambda: nn.RNN(2, 3), (4, 2), LAW),
    "experts": (Experts, (3, 4), LAW),
    "standardised convolution": (lambda: Standardised(2, 2, 2), (3, 2, 3, 3), CAPTURED),
    "weight norm": (weight_normed, (3, 3), CAPTURED),
    "looks like a linear map": (Squared, (3, 3), CAPTURED),
    "PReLU": (lambda: nn.PReLU(3), (3, 3), CAPTURED),
}


def made(name):
    torch.manual_seed(1)
    make, shape, law = CASES[name]
    model = make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randint(0, 6, shape) if "bags" in name else torch.randn(shape, dtype=DOUBLE)
    return model, x, law


def first(z):
    return z[0] if isinstance(z, tuple) else z


def loss(output):
    z = first(output)
    return (z.sin() * torch.linspace(0.5, 2, z.numel(), dtype=DOUBLE).view_as(z)).sum()


def samples_of(name, z):
    """Return the sample that each entry of an output belongs to."""
    entries = torch.arange(z.numel()).view_as(z)
    if CASES[name][2] == "gain":
        return entries.reshape(-1)  # units do not share parameters: an entry of a norm meets its own unit only
    if name == "RNN without batch":
        return torch.zeros(z.numel(), dtype=torch.long)
    axis = 1 if name == "GRU, time first" else 0
    shape = [1] * z.dim()
    shape[axis] = z.shape[axis]
    return torch.arange(z.shape[axis]).view(shape).expand_as(z).reshape(-1)


@pytest.mark.parametrize("name", CASES)
def test_shares_are_those_of_the_whole_jacobian(name):
    model, x, law = made(name)
    z = first(model(x))
    rows = []
    for entry in z.reshape(-1):
        found = torch.autograd.grad(entry, list(model.parameters()), retain_graph=True, allow_unused=True)
        rows.append(torch.cat([p.new_zeros(p.shape).flatten() if g is None else g.flatten()
                               for p, g in zip(model.parameters(), found, strict=True)]))  # fmt: skip
    kernel = torch.stack(rows) @ torch.stack(rows).T
    (g,) = torch.autograd.grad(loss(z), z)
    sample = samples_of(name, z)
    within = sample[:, None] == sample[None, :]
    own, cross = (kernel * within) @ g.reshape(-1), (kernel * ~within) @ g.reshape(-1)
    found = verify.diagnose(model, x, loss, rate=1e-3)
    (layer,) = found.layers
    assert layer.law == law and found.ok and found.judged == 1 and found.unjudged == ()
    exact = 1e-5 if law in (LAW, CAPTURED) else 1e-9
    total = own.square().sum() + cross.square().sum()
    assert layer.shares.own == pytest.approx(float(own.square().sum() / total), rel=exact, abs=exact)
    assert layer.shares.elsewhere == pytest.approx(0, abs=exact)
    assert layer.shares.error <= layer.shares.bound
    assert layer.parts.own == pytest.approx(1) and layer.parts.upstream == pytest.approx(0, abs=1e-12)
    if law == CAPTURED:
        diagonal = kernel.diagonal().view_as(z).movedim(1, -1).reshape(layer.factors.samples, -1).mean(1)
        assert (layer.factors.minimum, layer.factors.maximum) == pytest.approx(
            (float(diagonal.min()), float(diagonal.max()))
        )
    elif law != LAW:
        units = z.shape[-1] if law == "linear" or law == "affine" else 1
        diagonal = kernel.diagonal().reshape(-1, units)[:, 0]
        assert (layer.factors.minimum, layer.factors.maximum) == pytest.approx(
            (float(diagonal.min()), float(diagonal.max()))
        )


class Shifted(nn.Module):
    """A module with parameters of its own besides a layer: a scale before it and a shift after it."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(3, dtype=DOUBLE)), nn.Parameter(torch.randn(2, dtype=DOUBLE))
        self.inner = nn.Linear(3, 2).double()

    def forward(self, x):
        return self.inner(x * self.scale).tanh() + self.shift


def shares_of_squares(parts):
    total = sum(float(part.square().sum()) for part in parts)
    return [float(part.square().sum()) / total for part in parts]


def test_a_module_with_children_is_judged_by_its_own_parameters():
    torch.manual_seed(0)
    model, x, rate = Shifted(), torch.randn(3, 3, dtype=DOUBLE), 1e-3
    z, own = model(x), [model.scale, model.shift]
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(e, own, retain_graph=True)]) for e in z.reshape(-1)]
    (g,) = torch.autograd.grad(loss(z), z, retain_graph=True)
    step = torch.cat([p.flatten() for p in torch.autograd.grad(loss(z), own)])
    jacobian = torch.stack(rows).reshape(3, 2, -1)
    alone = torch.einsum("sip,sjp,sj->si", jacobian, jacobian, g)
    found = verify.diagnose(model, x, loss, rate=rate).layer("")
    own_share, cross = shares_of_squares([alone, jacobian @ step - alone])
    assert found.law == CAPTURED and (found.shares.own, found.shares.cross) == pytest.approx(
        (own_share, cross), rel=1e-4
    )
    assert found.shares.elsewhere == pytest.approx(0, abs=1e-6)
    loss(model(x)).backward()
    with torch.no_grad():
        for p in own:
            p -= rate * p.grad
        moved = model(x) - z
        for p in model.inner.parameters():
            p -= rate * p.grad
        change = model(x) - z
    assert found.parts.own == pytest.approx(float((moved * change).sum() / change.square().sum()), rel=1e-6)
    assert found.parts.own + found.parts.upstream + found.parts.both == pytest.approx(1)


def test_a_module_with_large_children_says_why_it_is_not_judged():
    model = Shifted()
    model.inner = nn.Sequential(nn.Linear(3, 400), nn.Linear(400, 400), nn.Linear(400, 2)).double()
    found = verify.diagnose(model, torch.randn(3, 3, dtype=DOUBLE), loss, steps=0)
    (entry,) = found.unjudged
    assert (
        entry.name == "" and "scale, shift" in entry.reason and "its children hold 162,802 parameters" in entry.reason
    )


class Packed(nn.Linear):
    """A layer with its weight as 4-bit integers, two per byte, and one scale per row."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        size = self.weight.detach().abs().amax(1, keepdim=True) / 7
        whole = (self.weight.detach() / size).round().to(torch.int8).view(torch.uint8) & 15
        self.register_buffer("size", size)
        self.weight = nn.Parameter(whole[:, ::2] | whole[:, 1::2] << 4, requires_grad=False)

    def forward(self, x):
        whole = torch.stack([self.weight & 15, self.weight >> 4], -1).flatten(1).to(x.dtype)
        return F.linear(x, torch.where(whole > 7, whole - 16, whole) * self.size, self.bias)


class Quantised(torch.Tensor):
    """A quantised tensor of integers and scales, as in quantisation libraries."""

    @staticmethod
    def __new__(cls, whole, size):
        return torch.Tensor._make_wrapper_subclass(cls, whole.shape, dtype=size.dtype)

    def __init__(self, whole, size):
        self.whole, self.size = whole, size

    def __tensor_flatten__(self):
        return ["whole", "size"], None

    @staticmethod
    def __tensor_unflatten__(inner, _, __, ___):
        return Quantised(inner["whole"], inner["size"])

    def numbers(self):
        return self.whole.to(self.size.dtype) * self.size

    dequantize = numbers

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), words=None):
        if function is F.linear:
            return F.linear(arguments[0], arguments[1].numbers(), *arguments[2:], **words or {})
        with torch._C.DisableTorchFunctionSubclass():
            return function(*arguments, **words or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments, words=None):
        if function in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return cls(*(function(part) for part in (arguments[0].whole, arguments[0].size)))
        raise NotImplementedError(function)


class Closed(Quantised):
    """The same without a way back to plain numbers."""

    dequantize = torch.Tensor.dequantize


def quantised(kind):
    base = nn.Linear(4, 3)
    size = base.weight.detach().abs().amax(1, keepdim=True) / 127
    base.weight = nn.Parameter(kind((base.weight.detach() / size).round().to(torch.int8), size), requires_grad=False)
    return base


class LowRank(nn.Module):
    """A frozen base layer with trained adapters."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


BASES = {
    "packed in bytes": (lambda: Packed(4, 3), LAW),
    "a tensor of another library": (lambda: quantised(Quantised), "affine"),
    "torch's dynamic quantisation": (
        lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)), {nn.Linear}),
        None,
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "bias trained"])
@pytest.mark.parametrize("name", BASES)
def test_low_rank_updates_of_quantised_weights(name, frozen):
    torch.manual_seed(0)
    make, law = BASES[name]
    model, x = LowRank(make()), torch.randn(8, 4)
    if frozen:
        model.base.requires_grad_(False)
    before = model.base(x)
    found = verify.diagnose(model, x, lambda z: (z - 1).square().mean(), rate=0.1)
    laws = {layer.name: layer.law for layer in found.layers}
    assert torch.equal(model.base(x), before) and found.ok and found.judged == 1
    assert {laws.pop("down"), laws.pop("up")} == {"linear"}
    if frozen or law is None:
        assert laws == {} and all("frozen" in entry.reason for entry in found.unjudged)
        return
    assert laws == {"base": law} and found.layer("base").parts.own == pytest.approx(1)
    assert found.layer("base").factors.maximum == pytest.approx(1)  # the bias alone is trained


def test_a_quantised_weight_that_cannot_be_read_is_refused_by_name():
    found = verify.diagnose(LowRank(quantised(Closed)), torch.randn(8, 4), lambda z: z.square().mean())
    assert [(entry.name, "holds a Closed" in entry.reason) for entry in found.unjudged] == [("base", True)]
    assert {layer.name for layer in found.layers} == {"down", "up"}


def test_factors_by_differentiation_are_the_mean_diagonal_where_units_are_few():
    model, x, _ = made("experts")
    z = model(x)
    squares = [sum(float(g.square().sum()) for g in torch.autograd.grad(e, list(model.parameters()), retain_graph=True))
               for e in z.reshape(-1)]  # fmt: skip
    means = torch.tensor(squares).view_as(z).mean(1)
    factors = verify.diagnose(model, x, loss).layers[0].factors
    assert (factors.minimum, factors.maximum) == pytest.approx((float(means.min()), float(means.max())), rel=1e-5)


def test_a_module_that_draws_says_why_it_is_not_judged():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.scale * x + torch.randn_like(x) * self.other

    found = verify.diagnose(nn.Sequential(nn.Linear(3, 3), Noisy()), torch.randn(4, 3), lambda z: z.square().mean())
    assert "draws random numbers" in found.unjudged[0].reason and found.judged < 1


@pytest.mark.slow
def test_linear_of_pytorch_geometric():
    geometric = pytest.importorskip("torch_geometric.nn", reason="the extra `integrations` brings torch-geometric")
    model = nn.Sequential(geometric.Linear(3, 4), nn.Tanh(), geometric.Linear(4, 2))
    found = verify.diagnose(model, torch.randn(5, 3), lambda z: z.square().mean())
    assert [layer.law for layer in found.layers] == ["affine", "affine"] and found.ok


def test_a_vmapped_loss_and_one_that_differentiates_twice():
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()

    def by_vmap(model, x):
        return torch.func.vmap(model)(x).square().mean()

    x = torch.randn(7, 2, dtype=DOUBLE)
    mapped, plain = verify.diagnose(model, x, by_vmap), verify.diagnose(model, x, lambda z: z.square().mean())
    for one, other in zip(mapped.layers, plain.layers, strict=True):
        assert one.factors == other.factors and one.shares.own == pytest.approx(other.shares.own)

    def slope(model, x):
        x = x.detach().requires_grad_()
        (du,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return (du.square().sum(1) - 1).square().mean()

    twice = verify.diagnose(model, x, slope)
    assert twice.ok and twice.layer("0").shares.elsewhere > 0.01
