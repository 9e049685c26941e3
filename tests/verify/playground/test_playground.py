"""The playground: Python's answers to the page, the folder, and the page in a browser, by keyboard only."""

import ast
import functools
import http.server
import json
import re
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest

import affdiv
from derive.errors import UsageError
from tests.verify.playground.browser import CHROMIUM, Browser
from verify.playground import answers, pyodide
from verify.playground.build import MARK, PAGE, STARTER, build, choices

# Bounds on the first result after the page loads and on affine's later, in multiples of the time in which a new CPython
# imports the package and derives one layer. Where that takes 0.45 s, they are 20 s and 2 s.
FIRST, LATER = 45, 4.5
CPYTHON = "import derive; affine = derive.layer('affine'); derive.effective_update(affine); derive.solve(affine)"
NEW = """\
name = "gated_cubic"
sizes = ["n", "m"]
[input]
x = ["n"]
[parameters]
V = ["m", "n"]
c = ["m"]
[output]
y = ["m"]
formula = "y[i] = sum[j](V[i, j] * x[j]**3) + c[i]"
"""
WRONG = NEW.replace("x[j]**3", "q[j]**3")


def told(layer, part):
    return json.loads(answers.answer(json.dumps({"layer": layer, "part": part})))


def by_command_line(capsys, tmp_path, text):
    """The output of the command line for the layer in a file."""
    (tmp_path / "layer.toml").write_text(text)
    assert affdiv.run(["derive", str(tmp_path / "layer.toml"), "--check", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_answer_is_what_the_command_line_prints(capsys, tmp_path):
    assert json.loads(told(NEW, "json")["text"]) == by_command_line(capsys, tmp_path, NEW)
    assert r"\label{eq:gated\_cubic/self-factor}" in told(NEW, "latex")["text"].replace("gated_cubic", r"gated\_cubic")


def test_every_part_answers_and_agrees():
    result, maps, steps = (told("affine", part) for part in ("result", "maps", "steps"))
    assert result["cancels"] == [found["name"] for found in maps["maps"]] == ["norm-like", "affine-like"]
    assert result["shape"] == "isotropic" and "<math" in result["factor"]
    assert sum(steps["steps"].values()) == sum(len(group["steps"]) for group in steps["groups"])
    assert steps["steps"].keys() == {"proved"} and "There is no" in told("gated", "maps")["refusals"][0]
    inside = told("attention", "result")
    assert inside["cancels"] == [] and "Projection of the tokens" in " ".join(inside["within"])
    files = told("affine", "code")["files"]
    assert "affine/kernels/torch/affine_like.py" in files and all(map(ast.parse, files.values()))


def test_the_curve_is_the_self_factor():
    own, *corrected = told("affine", "plot")["lines"]
    assert all(y == pytest.approx(x**2 + 1) for x, y in own["points"]) and len(own["points"]) > 30
    assert [{y for _, y in line["points"]} for line in corrected] == [{2.0}, {1.0}]
    assert {y for _, y in told("rms-norm>affine", "plot")["lines"][0]["points"]} == {2.0}
    assert [told(name, "result")["constant"] for name in ("affine", "rms-norm>affine")] == [False, True]


def test_an_error_says_where():
    wrong = told(WRONG, "result")
    line, column = wrong["line"], wrong["column"]
    assert WRONG.split("\n")[line - 1][column - 1 :].startswith("q[j]") and "'q'" in wrong["error"]
    assert told("nothing", "result")["error"].startswith("unknown layer") and "defect" not in told("a = ", "result")


def test_the_answers_need_nothing_that_a_browser_lacks():
    tree = ast.parse(Path(answers.__file__).read_text(encoding="utf-8"))
    used = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert used <= {"derive", "codegen", "sympy", *sys.stdlib_module_names}


def test_the_page_names_no_other_server():
    text = "".join(path.read_text(encoding="utf-8") for path in PAGE.iterdir())
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}


def test_every_choice_is_a_layer():
    texts = [layer["text"] for group in choices() for layer in group["layers"]]
    assert len(set(texts)) == len(texts) > 40 and texts[0] == STARTER
    assert told(STARTER, "result")["cancels"]


def test_what_cannot_be_built_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not empty and not a playground"):
        build(tmp_path / "mine")
    with pytest.raises(UsageError, match=r"no pyodide\.mjs, .*python_stdlib\.zip"):
        pyodide.fetched(tmp_path / "mine")
    with monkeypatch.context() as old:
        old.setattr(pyodide, "VERSIONS", {(3, 2): "0.1"})
        with pytest.raises(UsageError, match=r"no Pyodide is known for Python 3\.\d+; run this with one of 3\.2"):
            pyodide.version()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="npm was not found"):
        pyodide.fetched()
    assert affdiv.run(["playground", "--pyodide", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server without log output."""

    def log_message(self, *words):
        """Log nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a playground."""
    if CHROMIUM is None:
        pytest.skip("needs a Chromium")
    folder = tmp_path_factory.mktemp("site") / "playground"
    try:
        build(folder)
    except UsageError as problem:
        if "npm" not in str(problem):
            raise
        pytest.skip(f"needs the npm registry: {problem}")
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def native():
    """Milliseconds of one derivation by a new CPython, so that a busy machine does not count as a slow page."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", CPYTHON], check=True, cwd=Path(affdiv.__file__).parent)
    return 1000 * (time.perf_counter() - begun)


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
    """A browser with the page open and its first layer derived; afterwards it has no network."""
    opened = Browser(tmp_path_factory.mktemp("profile"))
    opened.view(1280)
    opened("Page.navigate", url=site[1])
    opened.until("document.getElementById('results')?.dataset.all")
    opened.offline()
    yield opened
    assert opened.faults == []
    opened.close()


def derive(browser, text):
    """Put a text into the editor and derive it; return the page's own record of it."""
    browser.value(f"document.getElementById('text').value = {json.dumps(text)}")
    browser.value("document.getElementById('form').requestSubmit()")
    return browser.until(
        "document.getElementById('results').dataset.all && {...document.getElementById('results').dataset}"
    )


@pytest.mark.slow
def test_it_is_quick_and_says_what_the_command_line_says_without_a_network(native, browser, capsys, tmp_path):
    record = browser.value("({...document.getElementById('results').dataset})")
    assert int(record["ready"]) + int(record["first"]) <= FIRST * native
    derive(browser, "linear")
    assert int(derive(browser, "affine")["first"]) <= LATER * native
    assert json.loads(derive(browser, NEW)["json"]) == by_command_line(capsys, tmp_path, NEW)
    assert browser.value("decodeURIComponent(location.hash.slice(1))") == NEW
    sections = ["factor", "forward", "kernel", "plot", "maps", "code", "steps", "copy"]
    assert browser.value("[...document.querySelectorAll('main section')].map((own) => own.id)") == sections
    assert browser.value("document.querySelectorAll('main math').length") > 50


def looks(browser):
    """Faults of the current page: too wide, hard to read, too small to touch."""
    worst = browser.value(Path(__file__).with_name("contrast.js").read_text(encoding="utf-8"))
    targets = "[...document.querySelectorAll('button, select, summary')].filter((e) => e.offsetHeight)"
    wrong = browser.value(f"{targets}.filter((e) => e.offsetHeight < 24).map((e) => e.outerHTML)")
    wide = browser.value("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return [*wrong, *(["wide"] if wide else []), *([] if worst[0] >= 4.5 else worst)]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_and_can_be_read(browser, width, dark):
    browser.view(width, dark=dark)
    assert looks(browser) == []
    planted = '<p id="planted" style="color: #888; background: #777; width: 2000px; max-width: none">faint</p>'
    planted += '<button style="font-size: 3px; padding: 0"></button>'
    browser.value(f"document.querySelector('footer').innerHTML += {json.dumps(planted)}")
    small, wide, contrast, where = looks(browser)
    assert "3px" in small and wide == "wide" and contrast < 2 and "planted" in where
    browser.value(
        "document.getElementById('planted').nextSibling.remove(), document.getElementById('planted').remove()"
    )


@pytest.mark.slow
def test_keys_alone_are_enough(browser):
    browser.view(1280)
    browser.value("document.activeElement.blur(), scrollTo(0, 0)")
    met = []
    for _ in range(5):
        browser.press("Tab", 9)
        met.append(browser.value("document.activeElement.id || document.activeElement.className"))
        assert browser.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert met == ["skip", "picker", "text", "derive", "link"]
    browser.value("document.getElementById('text').focus(), document.getElementById('text').select()")
    browser("Input.insertText", text=WRONG)
    browser.press("Enter", 13, modifiers=2)
    assert "'q'" in browser.until(
        "!document.getElementById('error').hidden && document.getElementById('error').textContent"
    )
    browser.press("Tab", 9)
    browser.press("Tab", 9)
    assert browser.value("document.activeElement.id") == "place"
    browser.press("Enter", 13, "\r")
    chosen = "((t) => t.value.slice(t.selectionStart, t.selectionEnd))(document.activeElement)"
    assert browser.value(chosen) == "q"
    browser("Input.insertText", text="x")
    browser.press("Enter", 13, modifiers=2)
    browser.until("document.getElementById('error').hidden && document.getElementById('results').dataset.all")
    assert browser.value("document.querySelector('.hero h2').textContent") == "gated_cubic"


@pytest.mark.slow
def test_a_link_holds_the_layer(browser):
    browser.value(f"location.hash = {json.dumps(quote('rms-norm>affine'))}")
    browser.until("document.querySelector('.hero .kicker')?.textContent === 'rms-norm>affine'")
    assert browser.value("document.getElementById('text').value") == "rms-norm>affine"


@pytest.mark.slow
def test_the_folder_is_whole_and_the_same_each_time(site):
    folder, _ = site
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"index.html", "page.mjs", "worker.mjs", "python.zip", "pyodide/pyodide.asm.wasm", MARK} <= found
    with zipfile.ZipFile(folder / "python.zip") as held:
        assert {"answers.pyc", "derive/__init__.pyc", "derive/atlas/table.json"} <= set(held.namelist())
