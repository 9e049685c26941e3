"""Why a target has no kernels for a layer: a closed list, which the manifest, ``affdiv layers`` and messages quote."""

from __future__ import annotations

REASONS = {
    "form": "its kernels are for layers of one input and one matrix, z = W x or z = W x + b",
    "arithmetic": "its kernels lack a function or an index that this layer uses",
}
