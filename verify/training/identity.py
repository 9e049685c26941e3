"""The identity of a trial: everything that its result depends on, as one digest."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from functools import cache
from pathlib import Path

import torch

import affine_divergence
from codegen.targets.base import KERNELS
from verify.training import angles
from verify.training.config import TrialConfig

PROCEDURE = 6  # raised when the same settings are to give another result: older results are then not taken for new ones

_PACKAGE = Path(str(affine_divergence.__file__)).parent
_PLAIN = ("none", "batch-norm", "layer-norm", "rms-norm", "rms-norm-eps", "qk-norm", "angle")  # no shipped layer
_OTHER_TARGETS = {target.name for target in KERNELS}  # trials take torch's operations, see ``models.take_torch``


def trial_id(config: TrialConfig, data_digest: str) -> str:
    """Return the SHA-256, in hexadecimal, of settings, generated torch files in use, data, torch's version, procedure.

    GPU kernels have no say: what a trial computes on the CPU does not go through them, and a change of one must not
    make the trials of a sweep strangers.
    """
    parts = {
        "configuration": config.told(),
        "layers": layers_digest(_roots(config)),
        "data": data_digest,
        "torch": torch.__version__,
        "procedure": PROCEDURE,
    }
    if config.angle is not None:
        parts["angle"] = angles.layers_digest(config.angle)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _roots(config: TrialConfig) -> tuple[str, ...]:
    """Return the modules of the generated package that a trial calls."""
    layers = () if config.method in _PLAIN else ("patch_modules", "modules") if config.model == "cnn" else ("modules",)
    measured = ("self_factors",) if config.update == "nlms" or config.probe_every else ()
    return (*layers, *measured)


@cache
def layers_digest(roots: tuple[str, ...]) -> str:
    """Return the SHA-256 of some modules of the generated package and of all that they import of it for torch."""
    found: set[Path] = set()
    left = [path for name in roots for path in _files(name)]
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += [own for name in _imported(path) for own in _files(name)]
    digests = (f"{path.relative_to(_PACKAGE)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in found)
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _files(name: str) -> list[Path]:
    """Return the file of a module of the package, by its dotted name; none for other targets' and for no module."""
    if _OTHER_TARGETS & set(re.split(r"[._]", name)):
        return []
    place = _PACKAGE.joinpath(*name.split("."))
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if name and path.is_file()]


def _imported(path: Path) -> set[str]:
    """Return the dotted names, inside the package, that a file imports, wherever in it; some name no module."""
    own = (affine_divergence.__name__, *path.relative_to(_PACKAGE).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(own[: len(own) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (start, node.module)))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    package = f"{affine_divergence.__name__}."
    return {name.removeprefix(package) for name in names if name.startswith(package)}
