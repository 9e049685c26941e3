"""The page of experiments: complete, self-contained, every number with its trials, and clean in a browser."""

import re
import subprocess
from html import escape
from pathlib import Path

import pytest

import affdiv
from tests.verify.hypotheses.made_up import trials
from tests.verify.report.test_page import CHROMIUM, Outline
from verify.hypotheses import judge
from verify.report.experiments import cell, render
from verify.report.palette import PENS, SPARE, markers, pens_for
from verify.report.plots import spaced
from verify.training.driver import register
from verify.training.experiment import load_experiment
from verify.training.sources import Source, load_sources
from verify.training.store import Store
from verify.training.worker import Job, work

ROOT = Path(__file__).resolve().parents[3]
SMALL = """
methods = ["none", "affine-like", "rms-norm-eps"]
updates = ["sgd", "nlms"]
learning_rates = [0.1, 1.0]
seeds = [0, 1, 2]
widths = [4]
depths = [1]
steps = 4
evaluate_every = 2
probe_every = 2
"""


def made_up():
    """A table with batch sizes, two networks and a method that falls with the batch; its name needs escaping."""
    rows = trials(
        lambda method, batch_size, **_: 0.8 - 0.001 * batch_size * (method == "affine-like"),
        method=["none", "layer-norm", "affine-like"],
        batch_size=[16, 32, 64],
        width=[8, 64],
    )
    return Source("batch size & <more>", Path("some/batch size.csv"), rows)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "small.toml").write_text(SMALL)
    with Store(folder / "store", create=True) as store:
        register(store, load_experiment(folder / "small.toml"), "digits", "cpu")
    work(Job(str(folder / "store"), "small", "digits", checkpoint_seconds=1e9, lease=60.0))
    return [*load_sources([], [folder / "store"]), made_up()]


@pytest.fixture(scope="module")
def page(sources):
    return render(sources, {source.name: judge(source.trials) for source in sources})


def test_whole_and_self_contained(page):
    outline = Outline(page)
    assert outline.stack == []
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w.-]+", name) for name in ids)
    assert {a["href"][1:] for a in outline.named("a")} <= set(ids)
    for _, attributes in outline.elements:
        assert all(attributes.get(name, "#").startswith("#") for name in ("src", "href", "xlink:href", "srcset"))
    assert "@import" not in page and not outline.named("script")
    assert not [marker for marker in markers() if marker in page]


def test_every_question_is_answered_or_said_not_to_be_asked(page):
    answers = page[page.index("The questions") : page.index("</dl>")]
    assert re.findall(r"<strong>(H\d)</strong>", answers) == [f"H{k}" for k in range(1, 10)]
    assert answers.count("No trial here tests this.") == 4
    assert "batch size &amp; &lt;more&gt;" in answers


def test_every_trial_of_a_finding_is_on_the_page(page, sources):
    links = set(re.findall(r'href="#(t-[^"]+)"', page))
    assert links and links <= set(re.findall(r'id="(t-[^"]+)"', page))
    assert page.count('<tr id="t-') == sum(len(source.trials) for source in sources)


def test_courses_of_a_store_are_drawn_and_tables_have_none(page):
    own, _, table = page.partition('<h2 id="batch-size-more-"')
    for title in ("Spread of the self factor", "Training loss", "Share of one"):
        assert title in own and title not in table
    assert "Rate sweep" in own and "Batch size, linear rate" in table


def test_what_all_trials_share_is_said_once(page):
    assert "activation = tanh" in page and '<th scope="col">activation</th>' not in page


def test_each_line_has_a_pen_of_its_own():
    found = pens_for(["affine-like", "t = pi/4", "t = atan(r)"])
    assert found["affine-like"] is PENS["affine-like"] and [found[k] for k in list(found)[1:]] == list(SPARE[:2])
    many = [f"{m}, {u}" for m in (*PENS, "t = pi/4") for u in ("sgd", "momentum", "nlms", "foof")]
    for labels in (many, [f"t = {k}" for k in range(40)]):
        pens = pens_for(labels).values()
        assert len({(pen.variable, pen.dasharray, pen.width) for pen in pens}) == len(labels)
    assert {pens_for(many)[f"norm-like, {u}"].marker for u in ("sgd", "foof")} == {PENS["norm-like"].marker}
    every = [*PENS.values(), *SPARE]
    assert len({pen.marker for pen in every}) == len({pen.variable for pen in every}) == len(every)


@pytest.mark.parametrize(("value", "shown"), [(None, ""), (1 / 3, "0.333333"), (7, "7"), ("none", "none")])
def test_cells(value, shown):
    assert cell(value) == shown


QUIET = ("--disable-background-networking", "--disable-sync", "--no-first-run", "--disable-component-update")
WIDTHS = (400, 1280)
SEEN = """
const seen = frame => {
  const inner = frame.contentWindow;
  return [inner.document.documentElement.scrollWidth, inner.performance.getEntriesByType('resource').length];
};
addEventListener('load', () => document.title = [...document.querySelectorAll('iframe')].map(seen).join(' '));
"""


def browse(folder, *options):
    """Run Chromium on a new profile, in which no name of a host is found; return what it printed."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *QUIET, f"--user-data-dir={folder / 'profile'}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)


def complaints(page, folder):
    """Return what is wrong with a page in windows of two widths: too wide, fetches something, writes to the console."""
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{escape(page)}"></iframe>' for width in WIDTHS)
    document = folder / "frames.html"
    text = f"<!doctype html><meta charset=utf-8><title></title><script>{SEEN}</script>{frames}"
    document.write_text(text, encoding="utf-8")
    done = browse(folder, "--virtual-time-budget=8000", "--enable-logging=stderr", "--dump-dom", document.as_uri())
    found = re.findall(r"(\d+),(\d+)", re.search(r"<title>([\d, ]+)</title>", done.stdout).group(1))
    assert len(found) == len(WIDTHS)
    wide = any(int(width) > window for (width, _), window in zip(found, WIDTHS, strict=True))
    fetched = any(int(fetches) for _, fetches in found)
    told = {"too wide": wide, "fetches": fetched, "console": "CONSOLE" in done.stderr}
    return {name for name, wrong in told.items() if wrong}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_in_a_browser_it_is_quiet_and_not_too_wide_and_one_that_is_broken_is_found(page, tmp_path):
    assert complaints(page, tmp_path) == set()
    broken = '<p style="width: 2000px">wide</p><script>console.error("loud")</script><img src="http://somewhere.invalid/a.png">'
    assert complaints(page.replace("</main>", f"{broken}</main>"), tmp_path) == {"too wide", "fetches", "console"}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_it_prints(page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    browse(tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}", (tmp_path / "page.html").as_uri())
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF") and len(content) > 20_000


def test_ticks_keep_apart():
    assert spaced([1, 2, 4, 8]) == [1, 2, 4, 8]
    kept = spaced([32.0 + k for k in range(30)])
    assert kept[0] == 32 and 4 < len(kept) <= 9


def test_what_no_trial_asks_has_no_verdict_on_the_terminal_either(tmp_path, capsys):
    assert (
        affdiv.run(
            [
                "report",
                "--table",
                str(ROOT / "paper_notes/results/angle-family-digits.csv"),
                "-o",
                str(tmp_path / "page.html"),
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    for hypothesis in ("H6", "H8"):
        assert f"  {hypothesis} not tested " in shown and f"{hypothesis} inconclusive" not in shown
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("No trial here tests this.") >= 2
