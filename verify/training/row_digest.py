"""Digests by which a store detects changed rows."""

from __future__ import annotations

import hashlib
import json


def row_digest(identity: str, config: str, total: int, team: str, result: str | None) -> str:
    """Return the hexadecimal SHA-256 of a trial's definition and, once it is done, its result."""
    return text_digest(json.dumps([identity, config, total, team, result]))


def text_digest(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
