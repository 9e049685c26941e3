"""Models on which a virtual step could easily differ from a real one: each returns (model, batch, loss)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.verify.diagnosis.models import Attend, network, tied


class Body(nn.Module):
    """Two layers run by a function given at construction, and a head."""

    def __init__(self, runs=lambda body, x: body(x)):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.head, self.runs = nn.Linear(8, 2), runs

    def forward(self, x):
        return self.head(self.runs(self.body, x))


def data(rows=16, width=4, out=2):
    return torch.randn(rows, width), torch.randn(rows, out)


def plain():
    return Body(), data(), F.mse_loss


def checkpointed():
    return Body(lambda body, x: checkpoint(body, x, use_reentrant=False)), data(), F.mse_loss


def checkpointed_reentrant():
    x, y = data()
    return Body(lambda body, x: checkpoint(body, x, use_reentrant=True)), (x.requires_grad_(), y), F.mse_loss


def checkpointed_with_dropout():
    model, batch, loss = checkpointed()
    model.body.append(nn.Dropout(0.4))
    return model, batch, loss


def checkpointed_with_batch_norm():
    model, batch, loss = checkpointed()
    model.body.insert(1, nn.BatchNorm1d(8))
    return model, batch, loss


def penalised():
    model, batch, _ = plain()
    return model, batch, lambda o, y: F.mse_loss(o, y) + 0.1 * sum(p.square().sum() for p in model.parameters())


def penalised_weights_in_a_list():
    model, batch, _ = plain()
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    return model, batch, lambda o, y: F.mse_loss(o, y) + 0.1 * sum(w.abs().sum() for w in weights)


class Listed(nn.Module):
    """Layers and weights in Python lists and dictionaries, besides the registered ones."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
        self.chain, self.weights = [self.first, torch.tanh], {"second": list(self.second.parameters())}

    def forward(self, x):
        for part in self.chain:
            x = part(x)
        return F.linear(x, *self.weights["second"])


def listed():
    return Listed(), data(), F.mse_loss


def compiled():
    return torch.compile(Body(), backend="aot_eager"), data(), F.mse_loss


def compiled_inside():
    model = Body()
    model.body.compile(backend="aot_eager")
    return model, data(), F.mse_loss


def convolutional():
    return network()


def tied_embedding():
    return tied()


def attention():
    return Attend(), torch.randn(2, 3, 4), lambda z: z.square().sum()


def transformer_layer():
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), torch.randn(2, 3, 4), lambda z: z.pow(3).mean()


def recurrent():
    model = nn.LSTM(4, 5, num_layers=2, batch_first=True)
    return model, torch.randn(3, 6, 4), lambda out: out[0].square().mean()


def parametrized():
    model = Body()
    nn.utils.parametrizations.weight_norm(model.head)
    nn.utils.parametrizations.spectral_norm(model.body[0])
    return model, data(), F.mse_loss


def double_backward():
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def residual(net, x):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return (slope.sum(1) - 1).square().mean() + net(x[:1]).square().mean()

    return model, torch.randn(10, 2), lambda model, x: residual(model, x)


def vmapped():
    model, (x, y), _ = plain()
    return model, (x, y), lambda model, batch: F.mse_loss(torch.func.vmap(model)(batch[0]), batch[1])


def functional():
    model, batch, _ = plain()

    def loss(model, batch):
        return F.mse_loss(torch.func.functional_call(model, dict(model.named_parameters()), batch[0]), batch[1])

    return model, batch, loss


class Training(nn.Module):
    """A model that is trained by ``training_step`` and never called itself; it keeps an average of its weights."""

    def __init__(self):
        super().__init__()
        self.net, self.averages, self.log = nn.Linear(4, 2), {}, {"losses": [[]]}

    def training_step(self, batch):
        for name, parameter in self.net.named_parameters():
            self.averages.setdefault(name, parameter.detach().clone()).lerp_(parameter.detach(), 0.1)
        loss = F.mse_loss(self.net(batch[0]), batch[1])
        self.log["losses"][0].append(loss.item())
        return loss + 0.1 * sum((p - self.averages[n]).square().sum() for n, p in self.net.named_parameters())


def training_step():
    return Training(), data(), lambda model, batch: model.training_step(batch)


class Renormalising(nn.Module):
    """An embedding that rescales its rows whenever it is read."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(6, 4, max_norm=1.0), nn.Linear(4, 3)

    def forward(self, t):
        return self.head(self.table(t))


def renormalising():
    t = torch.randint(0, 6, (12,))
    return Renormalising(), (t, t % 3), F.cross_entropy


def sparse_gradients():
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3))
    return model, (torch.randint(0, 9, (5, 3)), torch.randint(0, 3, (5,))), F.cross_entropy


def gradient_hooks():
    model, batch, loss = plain()
    model.head.weight.register_hook(lambda g: g.clamp(-0.05, 0.05))
    return model, batch, loss


def in_place_on_the_input():
    model, batch, loss = plain()
    model.runs = lambda body, x: body(x.add_(0.1))
    return model, batch, loss


MODELS = [
    plain, checkpointed, checkpointed_reentrant, checkpointed_with_dropout, checkpointed_with_batch_norm, penalised,
    penalised_weights_in_a_list, listed, compiled, compiled_inside, convolutional, tied_embedding, attention,
    transformer_layer, recurrent, parametrized, double_backward, vmapped, functional, training_step, renormalising,
    sparse_gradients, gradient_hooks, in_place_on_the_input,
]  # fmt: skip
