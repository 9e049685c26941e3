"""Checkpoints of trials or stacks: tensors as safetensors, with JSON state in the header of the same file.

Files are written atomically: under another name, flushed, renamed, and the folder flushed. A file that was damaged
later is recognised by its digest and ignored: the trial then starts again from the beginning.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from verify.training.probe import OwnStep, Spread
from verify.training.seed_stacking import TeamRun
from verify.training.trial import Point, TrialRun

SUFFIX = ".safetensors"
Run = TrialRun | TeamRun


class DamagedCheckpoint(Exception):
    """A file that is no valid checkpoint of this trial."""


def save_checkpoint(run: Run, path: Path) -> None:
    """Write the state of a run between two steps, atomically and flushed to disk."""
    write_checkpoint(content_of(run), path)


def content_of(run: Run) -> bytes:
    """Return the state of a run between two steps as the bytes of a checkpoint."""
    tensors = _tensors(run)
    state = json.dumps(_state(run), sort_keys=True, allow_nan=False)
    content: bytes = save(tensors, {"state": state, "digest": _digest(tensors, state)})
    return content


def write_checkpoint(content: bytes, path: Path) -> None:
    """Write the bytes of a checkpoint, atomically and flushed to disk."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def load_checkpoint(run: Run, path: Path) -> None:
    """Load a saved state into a new run of the same trial.

    Raises:
        FileNotFoundError: there is no checkpoint.
        DamagedCheckpoint: the checkpoint cannot be used; the run is unchanged.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    tensors, state = _read(path)
    own = _tensors(run)
    same = all(n in tensors and (v.shape, v.dtype) == (tensors[n].shape, tensors[n].dtype) for n, v in own.items())
    parts, states = _parts(run), state.get("members", [state])
    if state["identity"] != run.identity or not same or len(states) != len(parts):
        raise DamagedCheckpoint(f"{path} belongs to another trial")
    for (prefix, part), part_state in zip(parts.items(), states, strict=True):
        _restore(part, {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}, part_state)
    for name, value in _moments(run).items():
        value.copy_(tensors[name])
    if isinstance(run, TeamRun):
        run.step = state["step"]


def remove_checkpoints(folder: Path, identity: str) -> None:
    """Remove the checkpoint of a finished trial, and unfinished writes of it."""
    for path in folder.glob(f"*{identity}*"):
        path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
        if header["digest"] != _digest(tensors, header["state"]):
            raise DamagedCheckpoint(f"{path} does not match its digest")
        return tensors, json.loads(header["state"])
    except (SafetensorError, KeyError, ValueError, OSError) as problem:
        raise DamagedCheckpoint(f"{path} cannot be read: {problem}") from problem


def _parts(run: Run) -> dict[str, TrialRun]:
    """Return the trials of a run, keyed by the prefix of their tensors' names."""
    return {f"{k}/": member for k, member in enumerate(run.members)} if isinstance(run, TeamRun) else {"": run}


def _parameters(run: TrialRun) -> dict[str, Tensor]:
    return {f"model/{name}": value for name, value in run.model.state_dict().items()}


def _moments(run: Run) -> dict[str, Tensor]:
    """Return the update rule's state; the members of a stack take no steps of their own and have none."""
    return {f"update/{k}/{j}": v for k, moment in enumerate(run.update.state) for j, v in enumerate(moment)}


def _tensors(run: Run) -> dict[str, Tensor]:
    tensors = _moments(run)
    for prefix, part in _parts(run).items():
        tensors |= {f"{prefix}{name}": value for name, value in _parameters(part).items()}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _restore(run: TrialRun, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Load the saved tensors and state of one trial into a new run of it."""
    with torch.no_grad():
        for name, value in _parameters(run).items():
            value.copy_(tensors[name])
    run.step, run.diverged_at = state["step"], state["diverged_at"]
    run.points = [Point(**point) for point in state["points"]]
    run.spreads = [Spread(**spread) for spread in state["spreads"]]
    run.own_steps = [OwnStep(**own) for own in state["own_steps"]]


def _state(run: Run) -> dict[str, Any]:
    if isinstance(run, TeamRun):
        run.settle()
        return {"identity": run.identity, "step": run.step, "members": [_state(member) for member in run.members]}
    return {
        "identity": run.identity,
        "step": run.step,
        "diverged_at": run.diverged_at,
        "points": [asdict(point) for point in run.points],
        "spreads": [asdict(spread) for spread in run.spreads],
        "own_steps": [asdict(own) for own in run.own_steps],
    }


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
