"""Tensor parallelism: styles for ``torch.distributed.tensor.parallel.parallelize_module`` that split these layers.

torch's own styles take ``nn.Linear`` and ``nn.Embedding`` alone. The layers compute on DTensors as they are; a style
places their parameters and what goes in and out, with the arguments of torch's style of its name.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle

from .modules import AffineLike, NormLike

__all__ = ["ColwiseParallel", "RowwiseParallel"]

_KINDS = (AffineLike, NormLike)


class _Parallel(ParallelStyle):
    """What both share: ``_placements`` of the parameters, ``_inside`` of the input, ``_outside`` of the output."""

    _placements: ClassVar[dict[str, Placement]]
    _inside: ClassVar[Placement]
    _outside: ClassVar[Placement]

    def __init__(
        self,
        *,
        input_layouts: Placement | None = None,
        output_layouts: Placement | None = None,
        use_local_output: bool = True,
    ) -> None:
        super().__init__()
        self.input_layouts, self.output_layouts = input_layouts or self._inside, output_layouts or self._outside
        self.use_local_output = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, _KINDS):
            known = ", ".join(kind.__name__ for kind in _KINDS)
            raise TypeError(
                f"{type(self).__name__}: the plan names a {type(module).__name__}; this style splits {known}: give torch's "
                "style of this name for nn.Linear, and name the layers inside of others"
            )
        return distribute_module(module, device_mesh, self._partition, self._prepare_input, self._prepare_output)

    def _partition(self, name: str, module: nn.Module, device_mesh: DeviceMesh) -> None:
        for word, p in list(module._parameters.items()):
            if p is not None and not isinstance(p, DTensor):
                placed = distribute_tensor(p, device_mesh, [self._placements[word]], src_data_rank=self.src_data_rank)
                module.register_parameter(word, nn.Parameter(placed, requires_grad=p.requires_grad))

    def _prepare_input(self, module: nn.Module, inputs: Any, device_mesh: DeviceMesh) -> Any:
        x, *rest = inputs
        if not isinstance(x, DTensor):
            x = DTensor.from_local(x, device_mesh, [self.input_layouts], run_check=False)
        return (x.redistribute(placements=[self._inside], async_op=True), *rest)

    def _prepare_output(self, module: nn.Module, z: Any, device_mesh: DeviceMesh) -> Any:
        z = z.redistribute(placements=[self.output_layouts], async_op=True)
        return z.to_local() if self.use_local_output else z


class ColwiseParallel(_Parallel):
    """Split a layer by its outputs: each rank holds some rows of the weight and some entries of the bias.

    Args:
        input_layouts: how the input lies, ``Replicate()`` if not given; it is made whole on every rank.
        output_layouts: how the output shall lie, ``Shard(-1)`` if not given.
        use_local_output: return each rank's part as a plain tensor, else a DTensor.

    Raises:
        TypeError: in ``parallelize_module``, a module that is no layer of rows of this package.
    """

    _placements: ClassVar[dict[str, Placement]] = {"weight": Shard(0), "bias": Shard(0)}
    _inside: ClassVar[Placement] = Replicate()
    _outside: ClassVar[Placement] = Shard(-1)


class RowwiseParallel(_Parallel):
    """Split a layer by its inputs: each rank holds some columns of the weight and the whole bias.

    The squared length of a row is summed over the ranks, one number a row.

    Args:
        input_layouts: how the input lies, ``Shard(-1)`` if not given.
        output_layouts: how the output shall lie, ``Replicate()`` if not given.
        use_local_output: return each rank's part as a plain tensor, else a DTensor.

    Raises:
        TypeError: in ``parallelize_module``, a module that is no layer of rows of this package.
    """

    _placements: ClassVar[dict[str, Placement]] = {"weight": Shard(1), "bias": Replicate()}
    _inside: ClassVar[Placement] = Shard(-1)
    _outside: ClassVar[Placement] = Replicate()
