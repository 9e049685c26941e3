"""The digests by which a store notices that a row is no longer what was written."""

from __future__ import annotations

import hashlib
import json


def row_digest(identity: str, config: str, total: int, team: str, result: str | None) -> str:
    """Return the SHA-256, in hexadecimal, of what a trial is and, once it is done, of what it gave."""
    return text_digest(json.dumps([identity, config, total, team, result]))


def text_digest(text: str) -> str:
    """Return the SHA-256, in hexadecimal, of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
