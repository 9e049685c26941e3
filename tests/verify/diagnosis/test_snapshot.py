"""The state of a model is restored bit for bit, in every kind of container and after any exception."""

import array
import dataclasses
import functools
import gc
import random
import signal
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

import verify
from derive.errors import UsageError
from verify.diagnosis.snapshot import Snapshot
from verify.diagnosis.untouched import untouched


class FrozenDict(OrderedDict):
    """A configuration whose own methods reject changes."""

    def update(self, *_):
        raise TypeError("frozen")

    clear = pop = __setitem__ = __delitem__ = update


class FrozenList(list):
    def clear(self):
        raise TypeError("frozen")

    extend = append = __setitem__ = clear


def frozen(**entries):
    made = FrozenDict()
    for name, value in entries.items():
        OrderedDict.__setitem__(made, name, value)
    return made


@dataclasses.dataclass(frozen=True)
class Settings:
    entries: list


class Slots:
    __slots__ = ("__hidden", "count")

    def __init__(self):
        self.count, self.__hidden = 1, [1]

    def change(self):
        self.count += 1
        self.__hidden.append(2)

    def seen(self):
        return self.count, list(self.__hidden)


class Average:
    """An exponential moving average of weights, as a plain object."""

    def __init__(self, model):
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, model):
        for name, p in model.named_parameters():
            self.shadow[name].mul_(0.9).add_(p.detach(), alpha=0.1)


def counter():
    count = 0
    kept = []

    def hook(*_, default=[0]):  # noqa: B006
        nonlocal count
        count += 1
        kept.append(count)
        default[0] += 1

    return hook, lambda: (count, list(kept), list(hook.__kwdefaults__["default"]))


class Everything(nn.Module):
    """A model that changes one object of every kind whenever it runs."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("seen_rows", torch.zeros(()), persistent=False)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.config = frozen(a=1, inner=frozen(b=[1]))
        self.frozen_list = FrozenList([1, [2]])
        self.nested = {"list": [1, {"deep": {1, 2}}], "pair": (1, [3])}
        self.recent, self.counts, self.lists = deque([1], maxlen=2), Counter(a=1), defaultdict(list)
        self.bytes, self.numbers = bytearray(b"ab"), array.array("d", [1.0])
        self.array, self.objects = np.arange(3.0), np.array([[1], None], dtype=object)
        self.settings, self.slots, self.average = Settings([1]), Slots(), Average(self)
        self.generators = [torch.Generator().manual_seed(1), random.Random(1), np.random.default_rng(1)]
        self.generators.append(np.random.RandomState(1))
        self.expanded = torch.zeros(1).expand(3)
        self.signed = torch.tensor([-0.0, float("nan")])
        self.old = [nn.Linear(2, 2)]
        self.bound = functools.partial(self.nested["list"].append, 1)
        hook, self.hook_state = counter()
        self.linear.register_forward_hook(hook)

    def forward(self, x):
        self.seen_rows += len(x)
        OrderedDict.__setitem__(self.config, "a", 2)
        self.config["inner"]["b"].append(2)
        OrderedDict.__setitem__(self.config["inner"], "c", 1)
        list.append(self.frozen_list, 3)
        self.frozen_list[1].append(3)
        self.nested["list"][1]["deep"].add(3)
        self.nested["pair"][1].append(4)
        self.bound()
        self.recent.append(2), self.recent.append(3)
        self.counts["b"] += 1
        self.lists["new"].append(1)
        self.bytes.extend(b"c")
        self.numbers.append(2.0)
        self.array += 1
        self.objects[0].append(2)
        self.settings.entries.append(2)
        self.slots.change()
        self.average.update(self)
        torch.rand(1, generator=self.generators[0]), self.generators[1].random()
        self.generators[2].random(), self.generators[3].rand()
        self.expanded = self.expanded + 1
        self.signed.zero_()
        self.frozen.data = torch.zeros(2)
        self.frozen.requires_grad_(True)
        self.old[0].weight.data.add_(1)
        self.linear.weight.remark = "read"
        self.mode, self.linear.training = "ran", False
        torch.rand(1), random.random(), np.random.rand()
        return self.norm(self.linear(x))

    def seen(self):
        """Return the whole state in a form that compares bit for bit."""

        def bits(value):
            return value.detach().contiguous().view(torch.uint8).tolist() if value.dim() else value.item()

        return {
            "config": (list(self.config.items()), list(self.config["inner"].items())),
            "plain": repr((self.frozen_list, self.nested, self.recent, self.counts, self.lists)),
            "bytes": repr((self.bytes, self.numbers)),
            "arrays": (self.array.tolist(), self.objects.tolist(), self.settings.entries, self.slots.seen()),
            "average": {name: bits(value) for name, value in self.average.shadow.items()},
            "generators": [self.generators[0].get_state().tolist(), self.generators[1].getstate(),
                           str(self.generators[2].bit_generator.state), str(self.generators[3].get_state())],
            "tensors": [bits(t) for t in (self.expanded, self.signed, self.frozen, self.old[0].weight, self.seen_rows)],
            "state": {name: bits(value) for name, value in self.state_dict().items()},
            "versions": [t._version for t in (*self.parameters(), *self.buffers(), self.signed)],
            "attributes": [sorted(vars(module)) for module in self.modules()],
            "flags": [module.training for module in self.modules()] + [p.requires_grad for p in self.parameters()],
            "remark": hasattr(self.linear.weight, "remark"),
            "hook": self.hook_state(),
            "random": (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
        }  # fmt: skip


def fails(*_):
    raise RuntimeError("on purpose")


def interrupts(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("collecting", [True, False])
def test_the_garbage_collector_is_as_it_was(collecting):
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        Snapshot(nn.Linear(2, 2))
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("loss", [lambda z: z.square().mean(), fails, interrupts], ids=["good", "fails", "interrupts"])
def test_everything_is_as_before(loss):
    model, x = Everything(), torch.randn(6, 3)
    model.linear.weight.grad = torch.ones(3, 3)
    before, given = model.seen(), x.clone()
    try:
        verify.diagnose(model, x, loss, steps=2, rate=0.5)
    except (UsageError, KeyboardInterrupt):
        assert loss in (fails, interrupts)
    after = model.seen()
    assert {name for name in before if before[name] != after[name]} == set()
    assert torch.equal(model.linear.weight.grad, torch.ones(3, 3)) and torch.equal(x, given)


def test_the_model_of_this_test_changes_everything():
    """Without the guard, every object compared above is changed."""
    model = Everything()
    before = model.seen()
    model(torch.randn(6, 3)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    after = model.seen()
    assert {name for name in before if before[name] == after[name]} == set()


def test_a_failing_backward_pass():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            raise RuntimeError("on purpose")

    model, x = Everything(), torch.randn(6, 3)
    before = model.seen()
    with pytest.raises(UsageError, match="backward pass of the loss fails: on purpose"):
        verify.diagnose(model, x, lambda z: Fails.apply(z).sum())
    assert before == model.seen()


def test_an_interrupt_waits_for_the_restoration():
    held, steps = [1], []
    snapshot_restore = Snapshot.restore

    def interrupted(self):
        signal.raise_signal(signal.SIGINT)
        snapshot_restore(self)
        steps.append("restored")

    Snapshot.restore = interrupted
    try:
        with pytest.raises(KeyboardInterrupt), untouched(held):
            held.append(2)
    finally:
        Snapshot.restore = snapshot_restore
    assert held == [1] and steps == ["restored"]


def test_a_part_that_refuses_leaves_the_others_restored():
    locked, held = np.zeros(2), [1]
    snapshot = Snapshot([locked, held])
    held.append(2)
    locked.flags.writeable = False
    with pytest.raises(ExceptionGroup, match="could not be restored"):
        snapshot.restore()
    assert held == [1]
