"""Apply every rule to one step's evidence and rank the findings."""

from __future__ import annotations

from verify.diagnosis.findings import data, network, step
from verify.diagnosis.findings.evidence import Evidence
from verify.diagnosis.findings.finding import Finding, ranked


def verdict(seen: Evidence) -> tuple[Finding, ...]:
    """Return every finding on one step, most important first."""
    return ranked([*data.findings(seen), *network.findings(seen), *step.findings(seen)])
