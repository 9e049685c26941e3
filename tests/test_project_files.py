"""One version everywhere, and project files that agree with the code."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import affdiv
from derive.versions import __version__

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("package", ["derive", "codegen", "verify", "affine_divergence"])
def test_each_package_has_the_version(package: str) -> None:
    assert importlib.import_module(package).__version__ == __version__ == affdiv.__version__


def test_the_citation_names_the_version_and_both_works() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__ and cited["cff-version"] == "1.2.0"
    assert cited["references"][0]["authors"][0]["family-names"] == "Bird"
    assert {"message", "title", "authors"} <= cited.keys()


def test_the_changelog_names_the_version() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert heads[0] == "Unreleased" and __version__ in heads


def test_extras_that_the_guide_names_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^Optional extras: (.*?)$", guide, flags=re.M | re.S)
    assert set(re.findall(r"`(\w+)`", line)) == set(extras) - {"test"}


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.stem)
def test_issue_templates_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert path.stem == "config" or {"name", "description", "body"} <= form.keys()


def test_hooks_call_what_continuous_integration_calls() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [h["id"] for h in hooks if " ".join(h["entry"].split()[:2]) not in script.replace(".venv/bin/", "")] == []
