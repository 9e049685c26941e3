"""A generated package whose CUDA device is emulated on the CPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import torch

from verify.cuda_on_host.code import HostCode


class Host:
    """A context in which the package's CUDA kernels run on the CPU, for every caller.

    ``package`` is the name of the package. ``order`` seeds the order of threads. ``replacements`` are pairs (old, new)
    of text to replace in the sources; these and a new order take effect after ``forget``. Launches are listed in
    ``launched`` as (name, grid, block). ``watched`` reports undefined behaviour on standard error.
    """

    def __init__(self, package: str = "affine_divergence", watched: bool = True) -> None:
        self.package, self.watched = package, watched
        self.order = 0
        self.replacements: tuple[tuple[str, str], ...] = ()
        self.launched: list[Any] = []
        self._elements: dict[torch.dtype, str] = self._part("kernels.cuda.runtime.compile").ELEMENTS
        self._patches = ExitStack()

    def __enter__(self) -> Self:
        launch, backends = self._part("kernels.cuda.runtime.launch"), self._part("runtime.backends")
        misplaced, needs = backends._misplaced, {**backends.NEEDS, "cuda": "math"}
        for module, name, value in (
            (launch, "compiled", self._compiled),
            (launch, "_WIDE_PRODUCTS", False),  # torch supports them on CUDA devices only
            (backends, "NEEDS", needs),  # cuda.core is not needed here
            (backends, "_misplaced", lambda backend, device: "" if backend == "cuda" else misplaced(backend, device)),
        ):
            self._patches.enter_context(_exchanged(module, name, value))
        self.forget()
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()
        self.forget()

    def forget(self) -> None:
        """Recompile at the next call, and check again what is installed."""
        self._part("runtime.backends")._lack.cache_clear()
        prefix = f"{self.package}.kernels.cuda."
        for kernels in [
            getattr(m, "KERNELS", None) for name, m in list(sys.modules.items()) if name.startswith(prefix)
        ]:
            if kernels is not None:
                kernels._made.clear()

    def _part(self, name: str) -> Any:
        return importlib.import_module(f"{self.package}.{name}")

    def _compiled(self, source: Path, dtype: torch.dtype, device: torch.device) -> HostCode:
        """Replace the device compiler: compile the source, with the headers below it, for the CPU."""
        folder = source.parent
        headers = {path.relative_to(folder).as_posix(): self._changed(path) for path in folder.rglob("*.cuh")}
        return HostCode(
            self._changed(source), headers, self._elements[dtype], self.order, self.launched, watched=self.watched
        )

    def _changed(self, path: Path) -> str:
        text = path.read_text(encoding="utf-8")
        for old, new in self.replacements:
            text = text.replace(old, new)
        return text


@contextmanager
def _exchanged(module: Any, name: str, value: object) -> Iterator[None]:
    """Set a module's attribute inside the context, and restore it at the end."""
    former = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, former)
