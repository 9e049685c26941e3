"""One of two ranks of a distributed check, on the CPU: ``python distributed_ranks.py CHECK,.. RANK FILE``.

Ends with an AssertionError if two ranks compute something else than one.
"""

import itertools
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import affine_divergence as ad

ROUNDING = {torch.float64: 1e-11, torch.bfloat16: 4e-2}
MAPS = {
    "affine-like": ad.functional.affine_like,
    "norm-like": ad.functional.norm_like,
    "centred": lambda x, W, b: ad.functional.norm_like(x, W, b, center=True),
    "without a bias": lambda x, W, b: ad.functional.norm_like(x, W) + b,
}


def whole(t):
    return t.full_tensor() if isinstance(t, DTensor) else t


def assert_close(found, wanted, what):
    bound = ROUNDING[wanted.dtype] * (1 + wanted.abs().max())
    error = (whole(found) - wanted).abs().max()
    assert error <= bound, f"{what}: off by {error}"


def placed(t, mesh, placement):
    if isinstance(placement, Partial):
        t = DTensor.from_local(t / 2, mesh, [placement])
    else:
        t = distribute_tensor(t.clone(), mesh, [placement])
    return t.detach().requires_grad_()


def results(function, operands, g):
    """Return the output and the gradients; None if torch cannot compute a product with these placements."""
    z = function(*operands)
    if isinstance(z, DTensor):
        g = distribute_tensor(g, z.device_mesh, [Replicate()])
        z = z.redistribute(placements=[Replicate()])
    return [z, *torch.autograd.grad(z, operands, g)]


def placements(mesh):
    """Every map, forward and backward, for all placements that ``linear`` supports, against whole tensors."""
    generator, met = torch.Generator().manual_seed(0), 0
    for dtype, shape in ((torch.float64, (4, 6)), (torch.float64, (2, 4, 6)), (torch.bfloat16, (4, 6))):
        sizes = (shape, (8, 6), (8,), (*shape[:-1], 8))
        *operands, g = (torch.randn(size, generator=generator, dtype=dtype) for size in sizes)
        ways = (Replicate(), Partial(), *(Shard(axis) for axis in range(len(shape))))
        for way in itertools.product(ways, (Replicate(), Shard(0), Shard(1)), (Replicate(), Shard(0))):
            try:
                results(F.linear, [placed(t, mesh, p) for t, p in zip(operands, way, strict=True)], g)
            except (RuntimeError, NotImplementedError):
                continue
            met += 1
            for name, function in MAPS.items():
                wanted = results(function, [t.clone().requires_grad_() for t in operands], g)
                found = results(function, [placed(t, mesh, p) for t, p in zip(operands, way, strict=True)], g)
                for what, one, other in zip("zxWb", found, wanted, strict=True):
                    assert_close(one, other, f"{name} {dtype} {shape} {way} {what}")
    assert met >= 50, f"linear works for only {met} placements"


def damaged(mesh):
    """A map that uses the length of its local part of a row instead of the row's is noticed."""

    def map_of_a_part(x, W, b):
        part = x.to_local() if isinstance(x, DTensor) else x
        scale = (part.square().sum(-1, keepdim=True) + 1).rsqrt()
        return F.linear(x, W, b) * (DTensor.from_local(scale, mesh, [Replicate()]) if part is not x else scale)

    generator = torch.Generator().manual_seed(0)
    x, W, b, g = (torch.randn(size, generator=generator).double() for size in ((4, 6), (8, 6), (8,), (4, 8)))
    wanted = results(map_of_a_part, [t.clone().requires_grad_() for t in (x, W, b)], g)
    assert_close(wanted[0], MAPS["affine-like"](x, W, b), "the same on one rank")
    way = Shard(1), Shard(1), Replicate()
    found = results(map_of_a_part, [placed(t, mesh, p) for t, p in zip((x, W, b), way, strict=True)], g)
    for one, other in zip(found, wanted, strict=True):
        try:
            assert_close(one, other, "damaged")
        except AssertionError as seen:
            assert str(seen).startswith("damaged: off by")
        else:
            raise SystemExit("the damage is not noticed")


def images(mesh):
    """PatchNorm with a sharded batch, and with sharded filters."""
    x, W, b = (torch.linspace(-1, 2, n).sin().double() for n in (2 * 3 * 25, 4 * 3 * 9, 4))
    x, W, g = x.view(2, 3, 5, 5), W.view(4, 3, 3, 3), torch.ones(2, 4, 5, 5).double()
    if torch.__version__ < "2.13":
        try:
            ad.functional.patch_norm_conv2d(*(placed(t, mesh, Replicate()) for t in (x, W, b)))
        except NotImplementedError as refused:
            assert "computes wrong gradients in any convolution; use torch 2.13" in str(refused)
            return
        raise AssertionError("a convolution of DTensors is not refused")
    for form in ("affine-like", "norm-like"):
        for way in ((Shard(0), Replicate(), Replicate()), (Replicate(),) * 3):
            operands = [t.clone().requires_grad_() for t in (x, W, b)]

            def function(x, W, b, form=form):
                return ad.functional.patch_norm_conv2d(x, W, b, padding=1, form=form)

            found = results(function, [placed(t, mesh, p) for t, p in zip((x, W, b), way, strict=True)], g)
            for what, one, other in zip("zxWb", found, results(function, operands, g), strict=True):
                assert_close(one, other, f"patches {form} {way} {what}")


def network():
    torch.manual_seed(0)
    layers = nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 32, bias=False), nn.Tanh(), nn.Linear(32, 64)
    model = nn.Sequential(*layers).double()  # large enough for kernels, if there are any
    ad.convert(model, without_bias="norm-like")
    model[4].bias.data.normal_()
    return model


def stepped(model, x, lr=0.01):
    """Return the output before and after a gradient step, and the parameters after it."""
    first = model(x)
    (first - 1).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr).step()
    return [first, model(x), *model.parameters()]


def assert_same_step(model, single, x, **given):
    for number, (one, other) in enumerate(zip(stepped(model, x, **given), stepped(single, x, **given), strict=True)):
        assert_close(one, other, f"result {number}")


def styles(mesh):
    """A network whose layers are split by columns and rows takes the same step as the whole network."""
    x = torch.linspace(-2, 2, 32 * 64).view(32, 64).double()
    plan = {"0": ad.ColwiseParallel(), "2": ad.RowwiseParallel()}
    model = parallelize_module(network(), mesh, plan)
    assert [p.placements for p in model[0].parameters()] == [(Shard(0),)] * 2
    assert model[0].weight.to_local().shape == (24, 64)
    assert model[2].weight.placements == (Shard(1),) and model[2].weight.requires_grad
    assert_same_step(model, network(), x)
    plan = {"2": ad.ColwiseParallel(output_layouts=Replicate()), "4": ad.RowwiseParallel(input_layouts=Replicate())}
    assert_same_step(parallelize_module(network(), mesh, plan), network(), x)
    kept = parallelize_module(network(), mesh, {"0": ad.ColwiseParallel(use_local_output=False)})[0](x)
    assert isinstance(kept, DTensor) and kept.placements == (Shard(-1 + kept.dim()),)
    for style, layer, error in (
        (ad.ColwiseParallel(), nn.Linear(64, 8), TypeError),
        (ColwiseParallel(), network()[0], NotImplementedError),
    ):
        try:
            parallelize_module(nn.Sequential(layer), mesh, {"0": style})
        except error as problem:
            assert error is NotImplementedError or "the plan names a Linear; this style supports AffineLike" in str(
                problem
            )
        else:
            raise AssertionError(f"{style} splits a {layer}")
    left = ad.convert(parallelize_module(nn.Sequential(nn.Linear(6, 8)), mesh, {"0": ColwiseParallel()}))
    assert "its weight is a DTensor, which is sharded; convert before" in left.skipped[0].why


def fsdp(mesh):
    """``fully_shard`` around converted layers, and the messages of convert and revert about sharded layers."""
    x, model = torch.linspace(-2, 2, 32 * 64).view(32, 64).double(), network()
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert_same_step(model, network(), x)
    report = ad.revert(model)
    why = {s.name: s.why for s in report.skipped}["0"]
    assert why == "another tool has changed its class from AffineLike to FSDPAffineLike; undo that first"
    plain = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6))
    fully_shard(plain[0], mesh=mesh)
    why = {s.name: s.why for s in ad.convert(fully_shard(plain, mesh=mesh)).skipped}
    assert why["0"] == "its parameters are sharded by fully_shard; convert before they are"
    assert why["1"].startswith("its weight is a DTensor")
    older = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=True)
    assert_close(older(x), network()(x), "the older sharding")
    assert "sharded by FullyShardedDataParallel; revert the model before" in ad.revert(older).skipped[0].why
    older = FullyShardedDataParallel(
        nn.Sequential(nn.Linear(8, 8)), device_id=torch.device("cpu"), use_orig_params=True
    )
    assert "sharded by FullyShardedDataParallel; convert before" in ad.convert(older).skipped[0].why
    half = fully_shard(network().float(), mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    z = half(x.float())
    z.sum().backward()
    assert z.dtype == torch.bfloat16 and half[0].weight.grad.dtype == torch.float32


if __name__ == "__main__":
    checks, rank, file = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=int(rank), world_size=2)
    for check in checks.split(","):
        globals()[check](init_device_mesh("cpu", (2,)))
    dist.barrier()
    dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads sometimes abort the process during interpreter shutdown ("terminate called ..")
