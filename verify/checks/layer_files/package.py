"""The package of a layer file: generated to a temporary folder for this process, or the folder of ``--package``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from derive.errors import UsageError
from derive.forward_map import Layer
from derive.record import Derivation
from derive.spec import loads_spec
from verify.checks import target

SUFFIX = ".toml"
MANIFEST = "manifest.json"
NO_LAYER = (
    "the package names its layer but does not contain its formula; give the layer file too: "
    "`affdiv verify FILE.toml --package FOLDER`"
)


@dataclass(frozen=True, eq=False)
class LayerFile:
    """A layer from a file, its name on the command line (``word``), and its package.

    ``layer`` is None if a package was given without its layer; ``folder`` is the given package's folder.
    """

    word: str
    layer: Layer | None
    folder: Path | None

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name if self.layer is not None else str(self.manifest["layer"])

    @cached_property
    def derivation(self) -> Derivation:
        """The layer's derivation with its maps; its steps are not checked."""
        from dataclasses import replace

        import derive

        assert self.layer is not None
        found = derive.solve(self.layer)
        update = derive.effective_update(self.layer)
        return replace(update, solutions=tuple(found.maps), refusals=tuple(found.refusals))

    @cached_property
    def refusal(self) -> str:
        """Why no package can be generated for the layer; empty if one can or was given."""
        try:
            _ = self.place
        except UsageError as problem:
            return str(problem)
        return ""

    @cached_property
    def place(self) -> Path:
        """The folder of the package, which is generated on first use."""
        if self.folder is not None:
            return self.folder
        from codegen.compiler import build_layer
        from codegen.package import write

        assert self.layer is not None
        folder = Path(_room().name) / f"generated_{len(list(Path(_room().name).iterdir()))}"
        write(build_layer(self.layer, self.layer.name), folder)
        return folder

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The package's manifest."""
        return read_manifest(self.place)

    @cached_property
    def package(self) -> ModuleType:
        """The package, imported under a unique name."""
        return target.imported(self.place)

    @property
    def classes(self) -> Mapping[str, str]:
        """The package's classes, keyed by what they compute: a map's name, or the layer's."""
        held = {**self.manifest.get("plain", {}), **self.manifest.get("classes", {})}
        return {of: name for name, of in held.items()}

    def class_of(self, mapped: Layer) -> type[Any]:
        """Return the package's class of a map, or of the layer itself."""
        return getattr(self.package, self.classes[mapped.name])


@cache
def _room() -> tempfile.TemporaryDirectory[str]:
    """Return the folder for packages that this process generates; it is deleted at exit."""
    return tempfile.TemporaryDirectory(prefix="affdiv-verify-")


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """Return a package's manifest, empty if there is none; UsageError if it cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"--package {str(folder)!r}: {MANIFEST} cannot be read: {problem}; generate the package again"
        ) from None
    return held if isinstance(held, dict) else {}


def of_layer_file(folder: Path | None) -> bool:
    """Return whether a folder holds the package of a layer from a file."""
    return folder is not None and "layer" in read_manifest(folder)


def layer_file(word: str, folder: Path | None = None) -> LayerFile:
    """Return the layer of a file or module; UsageError if it is unusable or the package is of another layer."""
    from derive.cli import named_layer

    layer = named_layer(word)
    if folder is not None:
        layer = _output_of(layer, folder)
    found = LayerFile(word, layer, folder)
    if folder is not None:
        _check_match(found, folder)
    return found


def packaged(folder: Path) -> LayerFile:
    """Return the layer of a package from the text in its manifest; the layer is None without that text."""
    text = read_manifest(folder).get("spec")
    where = f"{folder / MANIFEST}"
    return LayerFile("", _output_of(loads_spec(text, where), folder) if isinstance(text, str) else None, folder)


def _output_of(layer: Layer, folder: Path) -> Layer:
    """Return, of a layer with several outputs, the one that the package computes; its name is the output's."""
    name = str(read_manifest(folder).get("layer"))
    parts = (part for part in layer.parts if name.endswith(f"_{part.output.name}"))
    return next((replace(part, name=name) for part in parts), layer)


def _check_match(found: LayerFile, folder: Path) -> None:
    """Raise UsageError if the package was generated from a layer other than the file's."""
    from codegen.plans.digest import digest

    manifest = read_manifest(folder)
    if "layer" not in manifest:
        raise UsageError(
            f"--package {str(folder)!r} holds no layer from a file; name the folder that "
            f"`affdiv generate --spec {found.word}` wrote, or leave {found.word} out"
        )
    known = {m.name: digest(m) for m in (found.layer, *(s.mapped for s in found.derivation.solutions)) if m is not None}
    for name, value in manifest.get("derivations", {}).items():
        if known.get(name) != value:
            raise UsageError(
                f"--package {str(folder)!r} was generated from another layer than {found.word}: its map {name!r} "
                f"is not the file's; give the file that it was generated from, or generate it again"
            )
