"""Checks as JUnit XML for continuous integration: one suite per family, one case per check.

A failed check contains its numbers and the command that repeats it; a skipped check its reason.
"""

from __future__ import annotations

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

from verify.checks.record import Check, Setting, Status


def junit(checks: list[Check], setting: Setting) -> str:
    """Return the XML document as text, with the checks in the given order."""
    document = JUnitXml("affdiv verify")
    for family in dict.fromkeys(check.family for check in checks):
        suite = TestSuite(family)
        suite.add_property("seed", str(setting.seed))
        suite.add_testcases([_case(check) for check in checks if check.family == family])
        document.add_testsuite(suite)
    document.update_statistics()
    text: bytes = document.tostring()
    return text.decode()


def _case(check: Check) -> TestCase:
    place = f"{check.layer}.{check.backend}.{check.device}.{check.dtype}"
    case = TestCase(check.id, classname=_plain(place))
    if check.status is Status.SKIPPED:
        case.result = [Skipped(_plain(check.reason))]
    if check.status is Status.FAIL:
        failure = Failure(_plain(check.reason), _plain(check.equation))
        failure.text = _plain(f"measured {check.measured}, bound {check.bound}\nrepeat: {check.reproduce}")
        case.result = [failure]
    return case


def _plain(text: str) -> str:
    """Return the text without the control characters that XML cannot hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
