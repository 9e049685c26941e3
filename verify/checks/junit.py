"""Checks as JUnit XML for continuous integration: one suite per family, one case per check.

A failed check contains its numbers and the command that repeats it; a skipped check its reason.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from verify.checks.record import Check, Setting, Status, count


def junit(checks: list[Check], setting: Setting) -> str:
    """Return the XML document as text, with the checks in the given order."""
    counts = count(checks)
    root = Element("testsuites", {"name": "affdiv verify", **_counts(len(checks), counts)})
    for family in dict.fromkeys(check.family for check in checks):
        own = [check for check in checks if check.family == family]
        suite = SubElement(root, "testsuite", {"name": family, **_counts(len(own), count(own))})
        properties = SubElement(suite, "properties")
        SubElement(properties, "property", name="seed", value=str(setting.seed))
        for check in own:
            _add(suite, check)
    ElementTree.indent(root, " ")
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=False)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _counts(tests: int, counts: dict[str, int]) -> dict[str, str]:
    return {"tests": str(tests), "failures": str(counts["fail"]), "skipped": str(counts["skipped"]), "errors": "0"}


def _add(suite: Element, check: Check) -> None:
    place = f"{check.layer}.{check.backend}.{check.device}.{check.dtype}"
    case = SubElement(suite, "testcase", name=check.id, classname=_plain(place))
    if check.status is Status.SKIPPED:
        SubElement(case, "skipped", message=_plain(check.reason))
    if check.status is Status.FAIL:
        failure = SubElement(case, "failure", message=_plain(check.reason), type=_plain(check.equation))
        failure.text = _plain(f"measured {check.measured}, bound {check.bound}\nrepeat: {check.reproduce}")


def _plain(text: str) -> str:
    """Return the text without the control characters that XML cannot hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
