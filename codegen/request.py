"""The arguments of ``affdiv generate``, validated before anything is derived."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

from codegen.compiler import build, build_layer
from codegen.package import DEFAULT_PACKAGE, check_name
from codegen.targets.base import NAMES, host_of
from derive.formula import parse_angle
from derive.forward_map import Layer
from derive.sources import is_module
from derive.spec import load_spec


@dataclass
class Request:
    """The package to generate: of the layer in the file or module ``spec``, or the shipped one if it is None.

    ``angle`` adds a member of the family; ``example`` gives the input axes of a module class; ``targets`` are names
    separated by commas, by default those of torch's package. Raises ``UsageError`` for a name, a target, an angle, a
    file or a module that cannot be used.
    """

    spec: Path | None = None
    name: str | None = None
    angle: str | None = None
    targets: str | None = None
    example: str | None = None

    def __post_init__(self) -> None:
        """Check the arguments, the cheapest checks first."""
        self._targets = NAMES if self.targets is None else tuple(self.targets.split(","))
        host_of(self._targets)
        if self.name is not None:
            check_name(self.name)
        self._angle = None if self.angle is None else parse_angle(self.angle)
        self._layer: Layer | None = None if self.spec is None else self._read(str(self.spec))

    def _read(self, spec: str) -> Layer:
        """Return the layer from a layer file or a module."""
        from codegen.capture import capture

        return capture(spec, example=self.example) if is_module(spec) else load_spec(spec)

    def parts(self) -> list[Request]:
        """Return one request, or for a layer with several outputs one each, named after the package and the output."""
        if self._layer is None or not self._layer.parts:
            return [self]
        return [self._of(part) for part in self._layer.parts]

    def _of(self, part: Layer) -> Request:
        name = f"{self.package}_{part.output.name}"
        check_name(name)
        found = copy(self)
        found.name, found._layer = name, replace(part, name=name)
        return found

    @property
    def package(self) -> str:
        """The package's name."""
        if self.name is not None:
            return self.name
        return DEFAULT_PACKAGE if self._layer is None else self._layer.name

    def texts(self) -> dict[str, str]:
        """Derive the maps and return the text of every file by its name."""
        if self._layer is not None:
            insist = self.targets is not None
            text = "" if self.spec is None or is_module(str(self.spec)) else self.spec.read_text(encoding="utf-8")
            return build_layer(self._layer, self.package, self._angle, self._targets, insist, text)
        return build(self.package, self._targets, self._angle)
