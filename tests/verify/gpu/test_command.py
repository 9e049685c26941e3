"""The command line: invalid usage, and one broken kernel in a dry run of real ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.emitted import file_of
from verify.cuda_on_host import missing
from verify.gpu.command import main
from verify.gpu.kernels import backend_and_map, files

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: -o/--out"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--minutes", "0"], "'0' is not a number of minutes above 0 and at most 1440"),
        (["--minutes", "nan"], "'nan' is not a number of minutes"),
        (["--stages", "kernels,sped"], "'sped' is not a stage; choose from kernels, speed, sweep, training, memory"),
        (["--workers", "-1"], "'-1' is not a number of processes from 1 to 64"),
    ],
)
def test_wrong_words_exit_2(words, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main([*words, *(["-o", str(tmp_path)] if words else [])])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_wrong_values_exit_2_with_one_line(tmp_path, capsys):
    there = ["--device", "cpu", "-o", str(tmp_path)]
    cases = [([*there, "--data", str(tmp_path / "none")], "is not a folder; name a folder of images")]
    cases += [(["--device", "cpu", "-o", "/proc/nowhere"], "cannot be written")]
    if not torch.cuda.is_available():
        cases += [(["-o", str(tmp_path)], "no CUDA device on this machine")]
    (tmp_path / "speed.json").write_text("[]")
    cases += [(there, "speed.json' holds no results of this program; choose another folder with -o")]
    for words, message in cases:
        assert main(words) == 2
        told = capsys.readouterr().err
        assert message in told and told.startswith("error: ") and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


BREAK = """
import sys
from verify.gpu import kernels
from verify.gpu.command import main
real, chosen = kernels.files, ("kernels/cuda/unit.cu", "kernels/cuda/norm_like.cu")
kernels.files = lambda: {name: digest for name, digest in real().items() if name in chosen}
kernels.DRY_TYPES, kernels._of_attention = ("float32",), lambda setting: ()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing() or "there is a compiler")
def test_a_broken_kernel_is_reported_and_the_others_are_measured(tmp_path):
    for name in ("affine_divergence", "derive", "verify", "codegen"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    source = tmp_path / "affine_divergence" / file_of("cuda", "unit.cu")
    text = source.read_text()
    assert "= f * g[k] - c * u[k];" in text, "the line to damage is gone: look again"
    source.write_text(text.replace("= f * g[k] - c * u[k];", "= f * g[k] + c * u[k];"))
    done = subprocess.run(
        [sys.executable, "-c", BREAK, "-o", "out", "--device", "cpu", "--stages", "kernels", "--workers", "1"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    held = json.loads((tmp_path / "out" / "kernels.json").read_text())
    broken = held["figures"]["kernels"][file_of("cuda", "unit.cu")]
    whole = held["figures"]["kernels"][file_of("cuda", "norm_like.cu")]
    assert broken["failed"] and not broken["holds"] and whole["holds"] and not whole["failed"]
    assert held["complete"] and held["device"] == "cpu" and held["mode"] == "dry-run"
    assert not (tmp_path / "out" / "gpu-verified.json").exists()


def test_every_file_of_kernels_belongs_to_a_map():
    known = {backend_and_map(file) for file in files()}
    assert {backend for backend, _ in known} == {"triton", "cuda"} and len(known) == len(files()) >= 26


@pytest.mark.slow
def test_the_whole_dry_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "verify.gpu", "-o", str(tmp_path), "--device", "cpu", "--minutes", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["ok"] and found["device"] == "cpu" and found["mode"] == "dry-run"
    assert set(found["stages"]) == {"kernels", "speed", "sweep", "training", "memory"}
    assert all(stage["complete"] and stage["passed"] for stage in found["stages"].values())
    assert all(k["holds"] for k in found["stages"]["kernels"]["figures"]["kernels"].values())
    assert "ratios" not in found["stages"]["speed"]["figures"]
    assert not (tmp_path / "gpu-verified.json").exists()
