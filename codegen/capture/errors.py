"""The error of a failed capture: what is not supported, where it is in the source, and what to do about it."""

from __future__ import annotations

from derive.forward_map import LayerError


class CaptureError(LayerError):
    """A module cannot be captured; the message names the operator or value, the source line and the fix.

    ``about_sizes`` says whether other sizes may help.
    """

    about_sizes: bool = False

    def __init__(self, problem: str, mend: str, source: str = "", about_sizes: bool = False) -> None:
        super().__init__(f"{problem}{f' ({source})' if source else ''}; {mend}")
        self.problem, self.mend, self.source, self.about_sizes = problem, mend, source, about_sizes

    def at(self, source: str) -> CaptureError:
        """Return the same error with this source line, unless it has one already."""
        return self if self.source or not source else CaptureError(self.problem, self.mend, source, self.about_sizes)


def refuse(problem: str, mend: str, source: str = "", *, about_sizes: bool = False) -> CaptureError:
    """Return the error whose message is the problem, its source line and the fix, in this order."""
    return CaptureError(problem, mend, source, about_sizes)
