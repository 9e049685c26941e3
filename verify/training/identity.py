"""The identity of a trial: a digest of everything that its result depends on."""

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

PROCEDURE = 6  # increase this when equal settings give a new result, so that old results are not reused

_PACKAGE = Path(str(affine_divergence.__file__)).parent
# Methods without a shipped layer.
_PLAIN = ("none", "batch-norm", "layer-norm", "rms-norm", "rms-norm-eps", "qk-norm", "angle")
_OTHER_TARGETS = {target.name for target in KERNELS}  # trials use torch's operations, see ``models.take_torch``


def trial_id(config: TrialConfig, data_digest: str) -> str:
    """Return the SHA-256, in hexadecimal, of settings, generated torch files in use, data, torch's version, procedure.

    GPU kernels are not included: trials do not use them, and a change of a kernel must not invalidate the trials of a
    sweep.
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
    """Return the SHA-256 of some modules of the generated package and of all its torch modules that they import."""
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
    """Return the file of a dotted name in the package; empty for modules of other targets and for other names."""
    if _OTHER_TARGETS & set(re.split(r"[._]", name)):
        return []
    place = _PACKAGE.joinpath(*name.split("."))
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if name and path.is_file()]


def _imported(path: Path) -> set[str]:
    """Return the dotted names inside the package that a file imports; some of them are not modules."""
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
