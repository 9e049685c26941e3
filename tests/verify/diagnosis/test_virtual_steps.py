"""Virtual steps equal real ones: a diagnosis has the losses of a training loop, and leaves no trace."""

import copy
import socket

import pytest
import torch
import torch.multiprocessing as processes
import torch.nn.functional as F
from torch import distributed, nn

import verify
from tests.verify.diagnosis.stepping_models import MODELS, Body
from verify.diagnosis.batch import arrange, run

RATE, STEPS = 0.2, 4


def made(make, seed=0):
    torch.manual_seed(seed)
    return make()


def real_losses(model, batch, loss, steps=STEPS, rate=RATE):
    """Train by torch's SGD; return the losses before each step and after the last."""
    work, losses = arrange(model, batch, loss), []
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps + 1):
        optimizer.zero_grad()
        value = run(work, model)
        losses.append(value.item())
        value.backward()
        optimizer.step()
    return losses


def state(model):
    return {name: value.clone() for name, value in (*model.named_parameters(), *model.named_buffers())}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_losses_are_those_of_training(make):
    model, batch, loss = made(make)
    before, randomness = state(model), torch.get_rng_state()
    found = verify.diagnose(model, batch, loss, steps=STEPS, rate=RATE)
    assert all(torch.equal(before[name], value) for name, value in state(model).items())
    assert torch.equal(randomness, torch.get_rng_state())
    assert found.stopped == "" and found.losses == pytest.approx(real_losses(*made(make)), rel=1e-6, abs=1e-6)
    torch.set_rng_state(randomness)
    assert found.losses == pytest.approx(real_losses(model, batch, loss), rel=1e-6, abs=1e-6)


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _spread_over(rank, count, port):
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    try:
        for wrap in ("ddp", "fsdp"):
            _diagnosed_then_trained(rank, wrap)
    finally:
        distributed.destroy_process_group()


def _wrapped(wrap):
    torch.manual_seed(0)
    model = Body()
    if wrap == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard

    fully_shard(model.body)
    return fully_shard(model)


def _whole(value):
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _diagnosed_then_trained(rank, wrap):
    model = _wrapped(wrap)
    torch.manual_seed(10 + rank)
    batch = torch.randn(8, 4), torch.randn(8, 2)
    before = {name: _whole(p.detach()).clone() for name, p in model.named_parameters()}
    found = verify.diagnose(model, batch, F.mse_loss, steps=3, rate=0.3)

    def fails(output, target):
        raise RuntimeError("on purpose")

    with pytest.raises(verify.diagnosis.measure.UsageError, match="on purpose"):
        verify.diagnose(model, batch, fails, steps=3)
    assert all(torch.equal(before[name], _whole(p.detach())) for name, p in model.named_parameters())
    assert [layer.name.removeprefix("module.") for layer in found.layers] == ["body.0", "body.2", "head"], found
    assert found.ok and all(layer.shares is not None for layer in found.layers), str(found)
    for trained in (_wrapped(wrap), model):
        losses = real_losses(trained, batch, F.mse_loss, 3, 0.3)
        assert found.losses == pytest.approx(losses, rel=1e-6, abs=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_models_wrapped_for_several_processes_in_one():
    _spread_over(0, 1, _free_port())


@pytest.mark.slow
def test_models_that_are_spread_over_processes():
    processes.spawn(_spread_over, args=(2, _free_port()), nprocs=2)


def test_a_graph_from_before_can_still_run_backward():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)
    value = model(x).square().sum()
    verify.diagnose(model, x, lambda z: z.square().sum(), steps=2)
    value.backward()
    twin = copy.deepcopy(model)
    twin.zero_grad()
    twin(x).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
