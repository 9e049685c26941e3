"""One rank of a distributed job: a model's gradients from its share of a batch, combined by torch.

Run as ``python ranks.py WAY RANK RANKS FOLDER``, where WAY is ``ddp`` or ``fsdp``; writes ``FOLDER/RANK.pt``, and with
``ddp`` ``FOLDER/RANK-apart.pt``: the gradients without synchronisation between the processes.
"""

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import affine_divergence as ad


class Model(nn.Module):
    """A sequence of patches, all kinds of rows, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Sequential(
            ad.PatchNormConv2d(2, 4, 3, padding=1),
            nn.Tanh(),
            ad.PatchNormConv2d(4, 4, 3, groups=2, center=True, form="norm-like"),
            ad.PatchNormConvTranspose2d(4, 3, 2),
        )
        self.rows = nn.Sequential(
            ad.AffineLike(5, 6), nn.Tanh(), ad.NormLike(6, 6, center=True), ad.NormLike(6, 4, False)
        )
        self.attention = ad.AffineLikeMultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return one number per sample for images (batch, 2, 6, 6)."""
        tokens = self.rows(self.patches(x).flatten(1, 2))
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].square().mean((1, 2))


def model_and_batch() -> tuple[Model, Tensor]:
    """Return the same in every process."""
    torch.manual_seed(0)
    return Model().double(), torch.randn(8, 2, 6, 6, dtype=torch.float64)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the full gradient of every parameter."""
    found = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        found[name.removeprefix("module.")] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return found


def main(way: str, rank: int, ranks: int, folder: Path) -> None:
    """Take part in a job and write the gradients that this rank sees."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    model, batch = model_and_batch()
    if way == "fsdp":
        mesh = dist.device_mesh.init_device_mesh("cpu", (ranks,))
        for part in (model.patches, model.rows, model.attention):
            fully_shard(part, mesh=mesh)
        together: nn.Module = fully_shard(model, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in together.parameters())
    else:
        together = DistributedDataParallel(model)
    share = batch.chunk(ranks)[rank]
    if isinstance(together, DistributedDataParallel):
        with together.no_sync():
            together(share).mean().backward()
        torch.save(gradients(together), folder / f"{rank}-apart.pt")
        together.zero_grad()
    together(share).mean().backward()
    torch.save(gradients(together), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Exit without returning: freeing the model frees the last reference to gloo's group, which waits for its thread
    # while holding the GIL, and the thread needs the GIL to free the barrier. Torch 2.13 sometimes hangs there.
    os._exit(0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
