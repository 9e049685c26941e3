"""``affdiv diagnose`` for its user: the table, JSON, conversion, and a message for every error."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import affdiv
import verify
from verify.diagnosis import step
from verify.diagnosis.show import columns_of, table_text
from verify.report.diagnosis import render

EXAMPLE = "verify.diagnosis.examples:digits"

MODULE = """
import torch
from torch import nn
from torch.nn import functional as F

CONSTANT = 3

def x(): return torch.randn(4, 3)
def good(): return nn.Linear(3, 2), (x(), torch.randn(4, 2)), F.mse_loss
def without_parameters(): return nn.ReLU(), x(), torch.sum
def frozen(): return nn.Linear(3, 2).requires_grad_(False), x(), torch.sum
def raising(): raise RuntimeError("no data here")
def leaving(): raise SystemExit(3)
def talking():
    print("here I am")
    return good()
def itself(): return nn.Linear(3, 2), x(), lambda model, batch: model(batch).sum() + model(2 * batch).pow(2).sum()
def nan(): return nn.Linear(3, 2), {"input": x() * float("nan")}, torch.sum
def vector(): return nn.Linear(3, 2), x(), lambda z: z.sum(0)
def elsewhere(): return nn.Linear(3, 2, device="meta"), x(), torch.sum
def constant_loss(): return nn.Linear(3, 2), x(), lambda z: torch.zeros(())
def no_loss(): return nn.Linear(3, 2), x()
def wrong_shape(): return nn.Linear(5, 2), x(), torch.sum
def no_tuple(): return 7
def alone(): return nn.Linear(3, 2)
def no_tensor(): return nn.Linear(3, 2), "text", torch.sum
def infinite(): return nn.Linear(3, 2), x(), lambda z: z.sum() / 0
def lazy(): return nn.LazyLinear(2), x(), torch.sum
def needs_more(size): return nn.Linear(3, 2), x(), torch.sum

class WithExample(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.example_inputs = nn.Linear(3, 2), x()
    def forward(self, x): return {"logits": self.linear(x)}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a user's module in it, which is unloaded afterwards."""
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(4)\n")
    (tmp_path / "unreadable.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("mine", "broken", "unreadable", "leaves"):
        sys.modules.pop(name, None)


def test_the_table_names_layers_and_the_map_that_corrects_them(capsys):
    assert affdiv.run(["diagnose", EXAMPLE]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^5 +Linear +64 samples ", printed, flags=re.M)
    assert "which no map changes; affine-like: z = f[s]*(sum[j](W[i,j]*x[s,j]) + b[i])" in printed
    assert "ad.PatchNormConv2d" in printed and "over 1 virtual steps" in printed


def test_json_of_a_model_before_and_after_conversion(capsys):
    assert affdiv.run(["diagnose", EXAMPLE, "--json", "--convert", "--steps", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "affdiv.diagnosis/1" and found["ok"]
    before, after = found["layers"], found["converted"]["layers"]
    assert [layer["type"] for layer in after] == ["PatchNormConv2d", "PatchNormConv2d", "AffineLike"]
    assert all(layer["self_factor"]["ratio"] > 1.1 and layer["advice"] for layer in before)
    assert all(layer["self_factor"]["ratio"] == 1 and not layer["advice"] for layer in after)
    assert all(len(layer["history"]) == 3 and layer["step"]["exact"] for layer in (*before, *after))


def test_the_seed_decides_what_the_factory_draws(folder, capsys):
    printed = []
    for seed in ("1", "1", "2"):
        assert affdiv.run(["diagnose", "mine:good", "--json", "--seed", seed]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]


def test_a_model_alone_with_an_example_of_its_input(folder, capsys):
    assert affdiv.run(["diagnose", "mine:WithExample", "--json"]) == 0
    assert [m["name"] for m in json.loads(capsys.readouterr().out)["layers"]] == ["linear"]


def test_what_the_users_code_prints_is_no_part_of_the_result(folder, capsys):
    assert affdiv.run(["diagnose", "mine:talking", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["ok"] and "here I am" in printed.err


def test_a_loss_that_runs_the_model_itself(folder, capsys):
    assert affdiv.run(["diagnose", "mine:itself", "--json"]) == 0
    (layer,) = json.loads(capsys.readouterr().out)["layers"]
    assert layer["calls"] == 2 and layer["step"]["exact"] and layer["self_factor"]["samples"] == 8


def test_a_step_that_is_not_the_derived_one_exits_1(folder, capsys, monkeypatch):
    real = step.kernel
    monkeypatch.setattr(step, "kernel", lambda *arguments: real(*arguments) + 1)
    assert affdiv.run(["diagnose", "mine:good"]) == 1
    assert "the real step differs from the derived one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mine", "'mine' is not of the form MODULE:FACTORY"),
        ("mine:", "is not of the form MODULE:FACTORY"),
        ("mine:good()", "is not of the form MODULE:FACTORY"),
        ("os;x:y", "is not of the form MODULE:FACTORY"),
        ("no_such_module:make", "no module 'no_such_module'"),
        ("mine.deeper:make", "no module 'mine.deeper'"),
        ("broken:make", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("unreadable:f", "SyntaxError"),
        ("mine:god", "has no 'god'"),
        ("mine:CONSTANT", "holds a value, not a function, in 'CONSTANT'"),
        ("mine:raising", "the factory 'mine:raising' raised RuntimeError: no data here"),
        ("mine:raising", "(mine.py, line "),
        ("mine:leaving", "raised SystemExit: 3"),
        ("leaves:make", "cannot be imported: SystemExit: 4 (leaves.py, line 2)"),
        ("mine:needs_more", "raised TypeError"),
        ("mine:no_tuple", "returned a int"),
        ("mine:alone", "holds no example of its input"),
        ("mine:without_parameters", "has no parameters"),
        ("mine:frozen", "every parameter of the model is frozen"),
        ("mine:lazy", "call the model once first"),
        ("mine:no_tensor", "holds no tensor"),
        ("mine:vector", "the loss has shape (2,); it must be one number"),
        ("mine:constant_loss", "depends on no trained parameter"),
        ("mine:no_loss", "no loss was given"),
        ("mine:wrong_shape", "the model cannot be run on the batch: RuntimeError"),
        ("mine:elsewhere", "batch is on cpu and the model on meta"),
    ],
)
def test_wrong_usage_exits_2_with_one_message(folder, capsys, words, message):
    assert affdiv.run(["diagnose", words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err


@pytest.mark.parametrize("option", [["--steps", "-1"], ["--rate", "0"], ["--rate", "nan"]])
def test_wrong_numbers_exit_2(folder, capsys, option):
    assert affdiv.run(["diagnose", "mine:good", *option]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_model_without_a_layer_to_replace_is_not_converted(folder, capsys):
    (folder / "mine.py").write_text(
        MODULE + "\ndef table(): return nn.Embedding(4, 2), torch.tensor([0, 1]), torch.sum\n"
    )
    assert affdiv.run(["diagnose", "mine:table", "--convert"]) == 2
    assert "--convert finds no layer to replace" in capsys.readouterr().err


def test_a_page_with_pictures(tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    assert affdiv.run(["diagnose", EXAMPLE, "--convert", "--html", str(page)]) == 0
    assert sorted(p.name for p in page.parent.iterdir()) == ["page.html"]
    text = page.read_text()
    assert text.count("<svg") == 2 * 8 and "After conversion" in text and "ad.PatchNormConv2d" in text
    assert not re.findall(r'(?:href|src)="http', text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert text.count("<tr>") == 2 * (1 + 3)
    assert "<math" in text and text.count("cross-terms-only") >= 3 and "<h3>Findings</h3>" in text


def test_a_narrow_page_shows_pictures_whose_text_is_drawn_at_its_size():
    """On a page 390 pixels wide a plot is 350 wide, like its viewBox, so that 8 points stay 8 points."""
    model = nn.Sequential(nn.Linear(3, 40), nn.Linear(40, 2))
    text = render(verify.diagnose(model, torch.randn(4, 3), torch.sum))
    narrow = re.findall(r'<div class="narrow"><svg[^>]*viewBox="0 0 ([\d.]+) [\d.]+"(.*?)</svg>', text, re.DOTALL)
    assert len(narrow) == text.count('<div class="wide">') == 4
    for width, drawing in narrow:
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", drawing)]
        assert sizes and min(sizes) * 350 / float(width) > 10
    rules = text[text.index("@media (max-width: 30rem)") :]
    assert ".wide { display: none; }" in rules and ".narrow { display: block; }" in rules
    assert "overflow-wrap: anywhere" in text


def test_names_of_layers_are_text_on_the_page():
    model = nn.ModuleDict({"<b>$x$ & y": nn.Linear(3, 2)})
    model.forward = lambda x: model["<b>$x$ & y"](x)
    text = render(verify.diagnose(model, torch.randn(4, 3), torch.sum))
    assert "<b>" not in text and "&lt;b&gt;$x$ &amp; y" in text


@pytest.mark.parametrize("option", ["--html", "--tensorboard"])
def test_a_place_that_cannot_be_written(option, folder, capsys):
    assert affdiv.run(["diagnose", "mine:good", option, "/proc/nowhere/at_all"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "/proc/nowhere" in printed.err and "--out" not in printed.err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_of_both_models(tmp_path, capsys):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    words = ["diagnose", EXAMPLE, "--json", "--convert", "--steps", "2", "--tensorboard", str(tmp_path)]
    assert affdiv.run(words) == 0
    found = json.loads(capsys.readouterr().out)
    for part, layers in (("before", found["layers"]), ("after", found["converted"]["layers"])):
        written = loading.EventAccumulator(str(tmp_path / part)).Reload()
        for layer in layers:
            scalars = written.Scalars(f"self factor/{layer['name']}/median")
            assert [s.value for s in scalars] == pytest.approx([h["median"] for h in layer["history"]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_and_its_batch_on_the_cpu(folder, capsys):
    (folder / "mine.py").write_text(MODULE + "\ndef far(): return nn.Linear(3, 2, device='cuda'), x(), torch.sum\n")
    assert affdiv.run(["diagnose", "mine:far"]) == 2
    assert "batch is on cpu and the model on cuda:0" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "kind"), [("mine:nan", "non-finite-input"), ("mine:infinite", "non-finite-forward")])
def test_numbers_that_are_not_finite_are_findings(folder, capsys, words, kind):
    assert affdiv.run(["diagnose", words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert not found["ok"] and [f["kind"] for f in found["findings"]] == [kind]
    assert affdiv.run(["diagnose", words]) == 1
    assert f"1. {kind}" in capsys.readouterr().out


def test_every_number_and_name_stands_whole_in_80_columns():
    torch.manual_seed(0)
    name = "a_stage_with_a_long_name.and_a_block_in_it.projection"
    body = nn.ModuleDict({"a_stage_with_a_long_name": nn.ModuleDict({"and_a_block_in_it": nn.ModuleDict()})})
    inner = body["a_stage_with_a_long_name"]["and_a_block_in_it"]
    inner["projection"] = nn.Linear(3, 2)
    body.forward = lambda x: inner["projection"](x)
    found = verify.diagnose(body, torch.randn(4, 3), lambda z: z.square().mean())
    narrow, wide = table_text(found, 80), table_text(found, 300)
    assert max(map(len, narrow.split("\n\n1.")[0].splitlines())) <= 80
    for cells in columns_of(found.layers).values():
        assert cells[0] in wide
        assert cells[0] in (narrow if cells[0] != name else wide)
    first = [re.split(r" {2,}", line)[0] for line in narrow.splitlines()]
    assert name in "".join(first)


@pytest.mark.parametrize("encoding", ["latin-1"])
def test_any_encoding_of_the_output(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "affdiv", "diagnose", EXAMPLE]
    done = subprocess.run(words, capture_output=True, env=environment, cwd=Path(affdiv.__file__).parent, timeout=200)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.decode(encoding)
    assert "4096 positions" in printed
    assert ("10⁻" if encoding == "utf-8" else "10^-") in printed


def test_the_factorys_own_optimizer_and_one_by_name(folder, capsys):
    (folder / "mine.py").write_text(
        MODULE + "\ndef own():\n    model = nn.Linear(3, 2)\n"
        "    return model, (x(), torch.randn(4, 2)), F.mse_loss, torch.optim.Adam(model.parameters(), lr=0.5)\n"
    )
    for words, name, rate in ((["mine:own"], "Adam", 0.5), (["mine:own", "--optimizer", "rmsprop"], "RMSprop", 0.01)):
        assert affdiv.run(["diagnose", *words, "--json", "--convert", "--clip-norm", "1"]) == 0
        found = json.loads(capsys.readouterr().out)
        for part in (found, found["converted"]):
            assert (part["optimizer"], part["rate"]) == (name, rate)
            assert part["layers"][0]["parts"]["own"] == pytest.approx(1)
    assert affdiv.run(["diagnose", "mine:own", "--optimizer", "adamant"]) == 2
    assert "no optimizer 'adamant' in torch.optim; known: adadelta" in capsys.readouterr().err
