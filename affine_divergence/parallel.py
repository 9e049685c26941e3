"""Tensor parallelism: styles for ``torch.distributed.tensor.parallel.parallelize_module`` that split these layers.

torch's own styles support only ``nn.Linear`` and ``nn.Embedding``. The layers themselves work on DTensors; a style places
their parameters, inputs and outputs, and has the arguments of torch's style of the same name.
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
    """Base of both styles: the placements of parameters (``_placements``), input (``_inside``) and output (``_outside``)."""

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
                f"{type(self).__name__}: the plan names a {type(module).__name__}; this style supports {known}: use torch's "
                "style of this name for nn.Linear, and name the inner layers of other modules"
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
        input_layouts: the placement of the input, by default ``Replicate()``; it is gathered on every rank.
        output_layouts: the placement of the output, by default ``Shard(-1)``.
        use_local_output: whether to return each rank's part as a plain tensor, not a DTensor.

    Raises:
        TypeError: in ``parallelize_module``, for a module that is not a layer of rows of this package.
    """

    _placements: ClassVar[dict[str, Placement]] = {"weight": Shard(0), "bias": Shard(0)}
    _inside: ClassVar[Placement] = Replicate()
    _outside: ClassVar[Placement] = Shard(-1)


class RowwiseParallel(_Parallel):
    """Split a layer by its inputs: each rank holds some columns of the weight and the whole bias.

    The squared length of a row, one number, is summed over the ranks.

    Args:
        input_layouts: the placement of the input, by default ``Shard(-1)``.
        output_layouts: the placement of the output, by default ``Replicate()``.
        use_local_output: whether to return each rank's part as a plain tensor, not a DTensor.

    Raises:
        TypeError: in ``parallelize_module``, for a module that is not a layer of rows of this package.
    """

    _placements: ClassVar[dict[str, Placement]] = {"weight": Shard(1), "bias": Replicate()}
    _inside: ClassVar[Placement] = Shard(-1)
    _outside: ClassVar[Placement] = Replicate()
