"""The one root of errors that a user's input can cause, in any room."""

from __future__ import annotations


class UsageError(ValueError):
    """A value that cannot be used; the text names the value, the cause and the mend. The command line exits with 2."""
