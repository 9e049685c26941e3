"""Render the templates of the JAX target."""

from __future__ import annotations

from pathlib import Path

from codegen.printing.rendering import SHARED, renderer

render = renderer(Path(__file__).parent / "templates", SHARED)
