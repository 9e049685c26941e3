"""The page: complete, self-contained, accessible, reproducible, and clear about failures."""

import json
import re
import shutil
import subprocess
from collections import Counter
from html import escape
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from verify.report.page import ratios_at_end, render
from verify.report.palette import PENS, markers
from verify.training.probe import Spread

VOID = {"meta", "br", "line", "img", "link", "input", "hr", "wbr", "col"}


class Outline(HTMLParser):
    """Collects elements and checks that every one that is opened is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.stack = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, f"</{tag}> closes nothing"

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(small_run):
    return (small_run[1] / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_well_formed(outline):
    assert outline.stack == []
    ids = Counter(attributes["id"] for _, attributes in outline.elements if "id" in attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    targets = {a["href"][1:] for a in outline.named("a")}
    assert targets <= ids.keys()


def test_self_contained(page, outline):
    for tag, attributes in outline.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert "@import" not in page
    assert all(use.startswith("#") for use in re.findall(r"url\(([^)]*)\)", page))
    assert not outline.named("script")


def test_accessible(outline):
    assert outline.named("html")[0]["lang"] == "en-GB"
    assert all(attributes.get("scope") in ("col", "row") for attributes in outline.named("th"))
    figures = [a for a in outline.named("svg") if a.get("aria-hidden") != "true"]
    assert len(figures) == 9
    assert all(a["role"] == "img" and len(a["aria-label"]) > 40 for a in figures)
    assert all(a.get("alttext") for a in outline.named("math"))
    headings = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(headings)), "no level is skipped"


def test_every_equation_is_shown_with_its_verdict(small_run, page):
    result, _ = small_run
    steps = {s.id for s in result.derivation.steps} | {s.id for found in result.maps for s in found.steps}
    for step in steps:
        assert f"<code>{step}</code>" in page
    assert page.count('<span class="status proved">') == len(steps)


def test_every_check_is_shown(small_run, page):
    for check in small_run[0].checks:
        assert f"<code>{check.id}</code>" in page


def test_colours_follow_the_scheme(page):
    assert not [marker for marker in markers() if marker in page]
    assert "prefers-color-scheme: dark" in page
    for pen in PENS.values():
        assert page.count(f"{pen.variable}: ") == 2
        assert f"var({pen.variable})" in page


def test_no_number_is_missing(page):
    assert not re.search(r"\bnan\b|\binf\b|None|Undefined", re.sub(r"<[^>]*>", " ", page))


def test_same_result_same_bytes(small_run, page):
    assert render(small_run[0].__class__(**{**vars(small_run[0]), "stages": small_run[0].stages[:-1]})) == page
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", page), "no date"


def test_a_failure_is_shown_first_with_its_command_and_escaped(failed_run):
    text = render(failed_run)
    failed = failed_run.checks[-1]
    assert escape(failed.reason) in text and failed.reason not in text
    alarm = text[text.index('role="alert"') :]
    assert alarm.index(failed.reproduce) < alarm.index("<details")
    assert f"<code>{failed.equation}</code>" in alarm
    assert '<strong class="fail">1</strong>' in text


def test_ratios_at_end_are_the_worst_of_the_last_step():
    def spread(step, layer, largest):
        return Spread(step, layer, 1.0, 1.0, largest, 1.0, 0.0)

    spreads = [spread(0, "a", 9.0), spread(4, "a", 2.0), spread(4, "a", 3.0), spread(4, "b", 1.5)]
    assert ratios_at_end(spreads) == (("a", 3.0), ("b", 1.5))


def test_results_beside_the_page(small_run):
    result, folder = small_run
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "results.json"]
    document = json.loads((folder / "results.json").read_text())
    assert document["schema"] == "affdiv.run/1"
    assert document["verification"]["schema"] == "affdiv.verification/1"
    assert document["derivation"]["schema"] == "affdiv.derivation/1"
    assert len(document["training"]["final"]) == 8
    assert document["seed"] == result.seed == 3


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
@pytest.mark.parametrize("width", [360, 820, 1300])
def test_nothing_is_wider_than_the_window(page, tmp_path, width):
    report = "document.title = frame.contentDocument.documentElement.scrollWidth"
    frame = f'<iframe id="frame" width="{width}" height="900" srcdoc="{escape(page)}" onload="{report}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><meta charset=utf-8><title></title>{frame}", encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert int(re.search(r"<title>(\d+)</title>", dom).group(1)) <= width
