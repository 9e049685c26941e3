"""`affdiv bench` times modules in turn, counts saved bytes, and keeps its results."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn

import affdiv
from derive.errors import UsageError
from tests.emitted import file_of
from verify.bench import launch, memory, providers, results_file, rows, shapes, speed, speed_table
from verify.bench.limits import Limits
from verify.bench.shapes import Feed, Shape, parse_shape

LINEAR, IMAGES = parse_shape("24x16x20"), parse_shape("2x4x6x8x3")


class Slow(nn.Module):
    """A layer whose forward pass waits, and that records its calls."""

    def __init__(self, name: str, seconds: float, calls: list[str]) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 20)
        self.name, self.seconds, self.calls = name, seconds, calls

    def forward(self, x):
        self.calls.append(self.name)
        time.sleep(self.seconds)
        return self.layer(x)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A quick run of the command with two numbers of threads: its output on both streams, and its files."""
    folder = tmp_path_factory.mktemp("bench")
    words = ["bench", "--quick", "-o", str(folder / "r.json"), "--plot", str(folder / "p.svg")]
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("verify.bench.command.print_speed", lambda run: lines.append(run))
        assert affdiv.run([*words, "--threads", "1,2"]) == 0
    return lines[0], folder


def feed_of(shape: Shape) -> Feed:
    return shapes.feeds(shape, "cpu", torch.float32, 0)[0]


@pytest.mark.parametrize(("text", "kind", "output"), [("2x3x4", "linear", (2, 4)), ("2X3x4x6x5", "convolution", None)])
def test_shapes_are_read(text, kind, output):
    shape = parse_shape(text)
    assert (shape.kind, shape.text) == (kind, text.lower())
    assert shape.output_shape == (output or (2, 4, 6, 6))
    assert providers.twin(shape)(torch.zeros(shape.input_shape)).shape == shape.output_shape


@pytest.mark.parametrize("text", ["", "4", "4x4", "4x4x4x4", "0x4x4", "-1x2x3", "4xax4", "2x2x2x8x4", "2x2x2x3x5"])
def test_other_shapes_are_refused(text):
    with pytest.raises(UsageError, match="shape"):
        parse_shape(text)


@pytest.mark.parametrize("shape", [LINEAR, IMAGES])
def test_operations_are_those_that_torch_counts(shape):
    from torch.utils.flop_counter import FlopCounterMode

    layer, feed = providers.twin(shape), feed_of(shape)
    with FlopCounterMode(display=False) as counter:
        layer(feed.x).backward(feed.g)
    assert counter.get_total_flops() == shape.operations()["both"]


@pytest.mark.parametrize("shape", [LINEAR, IMAGES])
def test_the_plain_composition_and_ours_are_one_map(shape):
    """The compared modules compute the same; with another scale they would not."""
    known = {p.name: p for p in providers.providers(shape, "cpu", compiles=False)}
    plain, ours = known["plain"].build(shape), known["ours"].build(shape)
    ours.load_state_dict(plain.layer.state_dict())
    x = feed_of(shape).x.detach()
    torch.testing.assert_close(ours(x), plain(x))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours(x), plain.layer(x))


def test_launches_take_turns_and_read_fresh_data():
    calls: list[str] = []
    modules = [Slow(name, pause, calls) for name, pause in (("a", 0.0), ("b", 0.004), ("c", 0.0))]
    feeds = shapes.feeds(LINEAR, "cpu", torch.float32, 0)
    times = launch.interleaved(modules, feeds, "cpu", 0.0, 6, lambda share: None)
    measured = calls[3 * launch.WARM_UP :]
    rounds = [measured[k : k + 3] for k in range(0, len(measured), 3)]
    assert len(rounds) == 6 and all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1
    assert min(times[1].forward) >= 0.004 and min(times[1].both) > max(min(times[0].both), min(times[2].both))
    assert len({feed.x.data_ptr() for feed in feeds}) == len(feeds) > 1


def test_what_a_layer_saves_is_its_input_and_a_number_a_row():
    """torch's layer saves its input, ours 4 bytes per row more; saving the output as well is detected."""
    feed, known = feed_of(LINEAR), {p.name: p for p in providers.providers(LINEAR, "cpu", compiles=False)}
    saved = {name: memory.saved_bytes(known[name].build(LINEAR), feed) for name in ("nn.Linear", "ours", "+ RMS norm")}
    assert saved["nn.Linear"] == feed.x.nbytes
    assert saved["ours"] == feed.x.nbytes + 4 * LINEAR.batch
    assert saved["+ RMS norm"] >= feed.x.nbytes + feed.g.nbytes


def test_the_peak_holds_the_output_and_the_gradients():
    feed = feed_of(LINEAR)
    peak = memory.peak_bytes(nn.Linear(16, 20), feed)
    gradients = feed.x.nbytes + 4 * 16 * 20 + 4 * 20
    assert gradients + feed.g.nbytes <= peak <= gradients + 3 * feed.g.nbytes + 1024
    assert feed.x.grad is None


def test_a_ratio_is_taken_round_by_round():
    """A machine that slows down in the middle changes the times, not the ratio."""
    twin = launch.Times([1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0])
    ours = launch.Times([2.0, 2.0, 18.0, 18.0], [1.0, 1.0, 9.0, 9.0])
    built = speed._Built(providers.Provider("p", nn.Linear), nn.Identity(), 1, 1, None)
    row = speed._row(built, ours, twin, LINEAR, Limits(1e9, 1e9), torch.float32)
    assert [row.ratio[part].median for part in rows.PARTS] == [2.0, 1.0, 1.5]
    assert row.ratio_of_least["both"] == 1.5 and row.ratio["both"].width == 0 < row.seconds["both"].width
    assert row.product_share["both"] == pytest.approx(LINEAR.operations()["both"] / row.seconds["both"].median / 1e9)


def test_a_peer_that_cannot_be_built_is_named_and_ours_is_not_forgiven(monkeypatch):
    def refuse(shape):
        raise RuntimeError("no kernel for this\nmore")

    twin = providers.Provider("twin", providers.twin)
    for ours in (False, True):
        both = [twin, providers.Provider("broken", refuse, ours=ours)]
        monkeypatch.setattr(speed, "providers", lambda *_, both=both, **__: both)
        request = speed.Request((LINEAR,), quick=True)
        if ours:
            with pytest.raises(RuntimeError, match="no kernel"):
                speed.measure(request, lambda *_: None)
        else:
            result = speed.measure(request, lambda *_: None)
            assert result.missing == {"broken": "RuntimeError: no kernel for this"}


def test_the_table_fits_80_columns(quick, capsys):
    speed_table.print_speed(quick[0])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("nn.Linear") and " 1.000 " in line for line in lines)
    assert all(any(line.startswith(name) for line in lines) for name in ("ours, kept", "+ batch norm", "plain"))
    assert any("Triton" in line for line in lines if line.startswith("not measured")) or torch.cuda.is_available()


def test_runs_are_added_to_the_file(quick):
    held = json.loads((quick[1] / "r.json").read_text())
    assert held["schema"] == "affdiv.bench/1" and len(held["runs"]) == 2
    assert [run["circumstances"]["device"]["threads"] for run in held["runs"]] == [1, 2]
    run = held["runs"][0]
    assert {"commit", "device", "versions", "sources", "time"} <= run["circumstances"].keys()
    assert file_of("torch", "affine_like.py") in run["circumstances"]["sources"]
    names = {(row["shape"], row["provider"]) for row in run["rows"]}
    assert {("64x32x48", "nn.Linear"), ("64x32x48", "ours"), ("2x4x6x8x3", "ours, kept")} <= names
    for row in run["rows"]:
        assert row["seconds"]["both"]["least"] > 0 and row["saved_bytes"] <= row["peak_bytes"]
    assert "<svg" in (quick[1] / "p.svg").read_text() and "nn.Conv2d" in (quick[1] / "p.svg").read_text()


def test_another_file_is_not_overwritten(tmp_path):
    for text in ("my notes", "{}", '{"schema": "affdiv.run/1", "runs": []}', "[1]"):
        (tmp_path / "notes").write_text(text)
        with pytest.raises(UsageError, match="holds no benchmark results"):
            results_file.check_file(tmp_path / "notes")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "tpu"], "device 'tpu' is not known; choose one of cpu, cuda"),
        (["--dtype", "float8"], "type 'float8' is not known"),
        (["--threads", "1,none"], "threads '1,none' is not a list of numbers from 1 to 1024; write one such as 1,2"),
        (["--threads", "0"], "threads '0' is not a list"),
        (["--shapes", "12"], "shape '12' is not known; write BATCHxINxOUT"),
        (["--shapes", "4x4x4", "-o", "/proc/nowhere/r.json"], "cannot be written"),
    ],
)
def test_wrong_usage_exits_2(words, message, capsys):
    assert affdiv.run(["bench", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_gpu_that_is_not_there_is_wrong_usage(capsys):
    assert affdiv.run(["bench", "--device", "cuda"]) == 2
    assert "no CUDA device on this machine" in capsys.readouterr().err


def test_providers_can_be_chosen():
    request = speed.Request((LINEAR,), quick=True, only=("plain", "ours"), without=("ours",))
    assert [row.provider for row in speed.measure(request, lambda *_: None).rows] == ["nn.Linear", "plain"]


def test_a_layer_of_ours_that_raises_ends_the_run_unless_it_is_tolerant(monkeypatch):
    def broken(shape):
        raise RuntimeError("no kernel\nat all")

    known = [providers.Provider("nn.Linear", providers.twin), providers.Provider("ours", broken, ours=True)]
    monkeypatch.setattr(speed, "providers", lambda *_, **__: known)
    with pytest.raises(RuntimeError, match="no kernel"):
        speed.measure(speed.Request((LINEAR,), quick=True), lambda *_: None)
    found = speed.measure(speed.Request((LINEAR,), quick=True, tolerant=True), lambda *_: None)
    assert found.missing == {"ours": "RuntimeError: no kernel"} and len(found.rows) == 1


def test_images_lie_with_channels_last_on_a_gpu_alone():
    formats = [shapes.memory_format(shape, device) for shape in (LINEAR, IMAGES) for device in ("cpu", "cuda")]
    assert formats == [torch.contiguous_format] * 3 + [torch.channels_last]


def test_what_needs_a_gpu_is_named_elsewhere():
    for shape in (LINEAR, IMAGES):
        known = {p.name: p for p in providers.providers(shape, "cpu", compiles=True)}
        for name in ("ours, Triton", "ours, graph", "layer, graph", "plain, max-autotune"):
            assert known[name].missing == "needs a GPU (--device cuda)"
        assert not known["ours"].missing and known["plain, max-autotune"].mode


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("shape", [LINEAR, IMAGES])
def test_everything_of_ours_is_measured_on_a_gpu(shape):
    request = speed.Request((shape,), device="cuda", dtype="bfloat16", quick=True)
    found = speed.measure(request, lambda *_: None)
    names = {row.provider for row in found.rows}
    assert {"ours", "ours, graph", "layer, graph"} <= names, found.missing
    assert found.limits.copy_bytes > 1e10


@pytest.mark.slow
def test_compiled_modules_are_measured_too():
    request = speed.Request((LINEAR,), seconds=0.0)
    names = [row.provider for row in speed.measure(request, lambda *_: None).rows]
    assert {"plain, compiled", "ours, compiled", "+ layer norm, compiled"} <= set(names)
