"""Which checks run, on which device, with which seed; and a failure can be repeated from its own line."""

import json
import shlex
from pathlib import Path

import pytest
import torch

from codegen.compiler import build
from codegen.package import write
from derive.errors import UsageError
from verify.checks import rows
from verify.checks.record import Outcome, Setting, Status, Task, count, to_json
from verify.checks.runner import reproduce, run_checks, run_task, tasks_for
from verify.checks.target import verifying


def task_that(run, **settings):
    return Task("identity/affine/test", "affine", "torch", "float64", "affine/test", run, **settings)


ROWS = ("affine", "linear")


def test_every_family_covers_every_map():
    ids = {task.id for task in tasks_for(ROWS)}
    for subject in ("affine", "linear", "affine-like", "norm-like", "linear/norm-like"):
        assert {f"identity/{subject}/{e}" for e in ("activation-change", "self-factor", "cross-terms")} <= ids
        assert f"derivation/{subject}/self-factor" in ids
    for subject in ("affine-like", "norm-like", "linear/norm-like"):
        assert {f"gradient/{subject}/gradcheck", f"gradient/{subject}/gradgradcheck"} <= ids
        assert {f"gradient/{subject}/forward", f"gradient/{subject}/backward-dx/triton/bfloat16"} <= ids
        assert {f"property/{subject}/injectivity", f"property/{subject}/limit-zero"} <= ids


def test_equations_named_by_checks_exist():
    import derive

    known = {step.id for layer in ("affine", "linear") for step in derive.effective_update(derive.layer(layer)).steps}
    known |= {step.id for layer in ("affine", "linear") for m in derive.solve(derive.layer(layer)) for step in m.steps}
    for centred in (rows.centred_layer("centred-affine", True), rows.centred_layer("centred-linear", False)):
        known |= {step.id for step in derive.effective_update(centred).steps}
        known |= {step.id for m in derive.solve(centred) for step in m.steps}
    named = {task.equation for task in tasks_for(ROWS)}
    assert {part for equation in named for part in equation.split(", ")} <= known


def test_derivations_of_what_only_the_generator_asks_for_are_checked_too():
    """Derivations over two and three axes share a name; the id distinguishes them."""
    ids = {task.id for layer in ("convolution", "convolution-3d", "affine") for task in derivations_of(layer)}
    for kind in ("centred-convolution", "centred-convolution-without-bias", "grouped-convolution-without-bias"):
        assert {f"derivation/{kind}/norm-like/self-factor/{axes}" for axes in ("2d", "3d")} <= ids
        assert {f"derivation/{kind}/activation-change/{axes}" for axes in ("2d", "3d")} <= ids
    assert "derivation/centred-convolution/inseparable-overlap/2d" in ids
    assert "derivation/centred-affine/norm-like/backward-dx" in ids
    named = [task.id for task in tasks_for(["convolution", "convolution-1d"])]
    assert len(named) == len(set(named))


def derivations_of(layer):
    return [task for task in tasks_for([layer]) if task.id.startswith("derivation/")]


def test_layers_are_chosen_by_name():
    assert {task.layer for task in tasks_for(["linear"])} == {"linear"}
    assert len(tasks_for(["linear", "linear"])) == len(tasks_for(["linear"]))


def test_unknown_names_are_refused():
    with pytest.raises(
        UsageError, match="no checks for layer 'convolutional'; layers that can be verified: affine, linear, conv"
    ):
        tasks_for(["convolutional"])
    with pytest.raises(UsageError, match=r"did you mean 'attention'\?"):
        tasks_for(["attentoin"])
    with pytest.raises(UsageError, match=r"self-facto'; .* ids; did you mean 'identity/affine/self-factor'"):
        tasks_for(["affine"], only=["identity/affine/self-facto"])
    with pytest.raises(UsageError, match="no check 'identity/affine/spin'"):
        tasks_for(["affine"], only=["identity/affine/spin"])
    with pytest.raises(UsageError, match="device 'tpu' is not known"):
        run_checks([], Setting(device="tpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_is_skipped_with_a_reason_where_there_is_none():
    checks = run_checks(tasks_for(["affine"], ["identity/affine/self-factor"]), Setting(device="cuda"))
    assert [(c.status, c.device) for c in checks] == [(Status.SKIPPED, "cuda")]
    assert "no CUDA device" in checks[0].reason


def test_derivations_run_whatever_the_device():
    (task,) = tasks_for(["affine"], ["derivation/affine/self-factor"])
    check = run_task(task, Setting(device="cuda"))
    assert (check.status, check.device, check.backend) == (Status.PASS, "none", "sympy")


def test_one_check_alone_gives_the_same_number_as_among_others():
    setting = Setting(seed=7)
    chosen = [t for t in tasks_for(["affine"]) if t.id.startswith("identity/") and t.backend.startswith("torch")]
    together = {check.id: check for check in run_checks(chosen, setting)}
    for identity, check in together.items():
        words = shlex.split(check.reproduce)
        assert words[:3] == ["affdiv", "verify", "affine"]
        (alone,) = run_checks(tasks_for([words[2]], [words[words.index("--only") + 1]]), Setting(seed=7))
        assert (alone.id, alone.measured, alone.seed) == (identity, check.measured, check.seed)
    other = run_checks(chosen[:1], Setting(seed=8))[0]
    assert other.seed != together[other.id].seed


def test_reproducing_command_carries_every_option():
    task = task_that(lambda setting: Outcome("fine", ok=True))
    command = reproduce(task, Setting(device="cuda", seed=3, full=True, package=Path("there")))
    assert command == "affdiv verify affine --only identity/affine/test --seed 3 --device cuda --full --package there"


def test_full_means_more_and_larger_instances():
    from verify.checks.cases import cases
    from verify.checks.layers import subjects_of

    subject = next(s for s in subjects_of("affine") if s.name == "affine-like")
    few = cases(subject, Setting(), "x", count=4)
    many = cases(subject, Setting(full=True), "x", count=4)
    assert len(many) > len(few) == 4
    assert max(c.inputs["x"].shape[1] for c in many) > 12 >= max(c.inputs["x"].shape[1] for c in few)
    assert all(c.kappa > subject.least_kappa() and 0.1 <= c.eta <= 1e6 for c in many)


@pytest.mark.parametrize("seed", [4, 10, 19])
def test_contributions_that_cancel_exactly_are_no_failure(seed):
    """In one dimension a norm-like layer sees only signs, so contributions to an activation's change may cancel."""
    ids = ["identity/norm-like/activation-change", "identity/linear/norm-like/activation-change"]
    assert {check.status for check in run_checks(tasks_for(ROWS, only=ids), Setting(seed=seed))} == {Status.PASS}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome("", measured=1e-13, bound=1e-12), Status.PASS),
        (Outcome("", measured=1e-12, bound=1e-12), Status.PASS),
        (Outcome("", measured=2e-12, bound=1e-12), Status.FAIL),
        (Outcome("", measured=float("nan"), bound=1e-12), Status.FAIL),
        (Outcome("", ok=True), Status.PASS),
        (Outcome("", ok=False), Status.FAIL),
        (Outcome(""), Status.SKIPPED),
    ],
)
def test_status_of_an_outcome(outcome, status):
    assert outcome.status is status


def test_schema():
    setting = Setting(seed=2)
    checks = [
        run_task(task_that(lambda s: Outcome("a", measured=float("inf"), bound=1.0)), setting),
        run_task(task_that(lambda s: Outcome("b", ok=True)), setting),
    ]
    document = json.loads(json.dumps(to_json(checks, setting), allow_nan=False))
    assert document["schema"] == "affdiv.verification/1"
    assert document["summary"] == {"pass": 1, "fail": 1, "skipped": 0} == count(checks)
    needed = {"id", "layer", "backend", "device", "dtype", "status", "measured", "bound", "reason"}
    assert all(needed | {"equation", "seed", "reproduce"} <= check.keys() for check in document["checks"])
    assert document["checks"][0]["measured"] is None


def test_a_package_without_kernels_skips_what_would_run_them(tmp_path):
    write(build("torch_alone", ("torch",)), tmp_path / "torch_alone")
    with verifying(tmp_path / "torch_alone"):
        for backend in ("triton", "cuda", "cpp"):
            task = next(t for t in tasks_for(("linear",)) if t.backend == backend)
            check = run_task(task, Setting())
            assert check.status is Status.SKIPPED and f"`affdiv generate --targets torch,{backend}`" in check.reason


def test_no_layer_is_derived_for_the_checks_of_its_modules(monkeypatch):
    """Deriving and solving a layer takes a hundred times as long as finding one check of its modules."""
    known = [task.id for task in tasks_for(["affine"]) if not task.id.startswith("derivation/")]
    wanted = [known[0], known[len(known) // 2], known[-1]]
    monkeypatch.setattr("verify.checks.derivations.tasks", lambda *given: pytest.fail("derived"))
    assert [task.id for task in tasks_for(["affine"], wanted)] == wanted
