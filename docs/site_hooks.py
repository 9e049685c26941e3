"""MkDocs hooks: they generate pages from the project itself and turn formulas into MathML.

    reference/command-line.md      the Typer program: every command, argument and option
    reference/layer-files.md       a marker in the page becomes the output of `affdiv language`
    reference/experiment-files.md  a marker becomes the docstring of the module that reads such files
    atlas/NAME.md                  one page per layer, from the stored table of the atlas and the layer's file
    notes/NAME.md                  pages of paper_notes: links point to pages of the site, SVG pictures are inlined

Nothing is derived or measured here, and torch is not loaded, so a build takes seconds.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTES = {
    "paper_notes/claims.md": "notes/claims.md",
    "paper_notes/results/README.md": "notes/results.md",
    "paper_notes/reconstruction.md": "notes/reconstruction.md",
    "paper_notes/related.md": "notes/related.md",
    "paper_notes/performance.md": "notes/performance.md",
    "paper_notes/captured.md": "notes/captured.md",
}
TRAINING = ROOT / "verify" / "training"


def generated() -> Iterator[tuple[str, str]]:
    """Yield the path below docs/ and the text of every generated page."""
    yield "reference/command-line.md", command_line()
    yield from atlas_pages()
    for source, place in NOTES.items():
        yield place, note(source, place)


def command_line() -> str:
    """Return the reference of the command line."""
    import typer.main

    from affdiv import app

    lines = ["# Command line", "", "Exit codes: 0 success, 1 a check failed, 2 wrong usage.", ""]
    for path, command in _leaves(typer.main.get_command(app), ("affdiv",)):
        lines += [f"## `{' '.join(path)}`", "", _escaped(command.help or ""), ""]
        rows = [_parameter(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            lines += ["| name | takes | |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if not children:
        yield path, command
    for name, child in sorted((children or {}).items()):
        yield from _leaves(child, (*path, name))


def _parameter(parameter: Any) -> str:
    is_option = str(parameter.opts[0]).startswith("-")
    names = ", ".join(parameter.opts) if is_option else (parameter.metavar or parameter.name)
    kind = _kind(parameter) if is_option and not getattr(parameter, "is_flag", False) else ""
    default = parameter.default
    if isinstance(default, Enum):
        default = default.value
    shown = kind and isinstance(default, str | int | float | Path) and default != ""
    cells = (
        f"`{names}`",
        f"`{kind}`" if kind else "",
        _escaped(parameter.help or "") + f" Default: `{default}`." * bool(shown),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(parameter: Any) -> str:
    """Return the values of an option: its metavar, its choices or its type."""
    annotation = parameter.type_descriptor.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    return str(parameter.metavar or getattr(annotation, "__name__", annotation))


def _escaped(text: str) -> str:
    """Return plain text as Markdown; text between backquotes stays code."""
    parts = text.split("`")
    return "`".join(
        part if k % 2 else html.escape(part, quote=False).replace("*", r"\*") for k, part in enumerate(parts)
    )


def atlas_pages() -> Iterator[tuple[str, str]]:
    """Yield a page for each layer of the atlas."""
    from derive.atlas import rows
    from derive.export.atlas import entry_blocks
    from derive.export.markdown import render

    for row in rows():
        text = render(entry_blocks(row)).replace("### ", "# ", 1)
        layer_file = (ROOT / "derive" / "atlas" / f"{row['name'].replace('-', '_')}.toml").read_text(encoding="utf-8")
        yield f"atlas/{row['name']}.md", f"{text}\n## The layer file\n\n```toml\n{layer_file.strip()}\n```\n"


def atlas_list() -> str:
    """Return the layers of the atlas by family, with links and the maps that cancel each."""
    from derive.atlas import GROUPS, kept_rows

    known, lines = kept_rows(), []
    for group, names in GROUPS.items():
        lines += [f"## {group}", "", "| layer | cancelled by |", "|---|---|"]
        for name in names:
            maps = ", ".join(found["name"] for found in known[name]["maps"]) or "no map"
            lines.append(f"| [{known[name]['title']}]({name}.md) | {maps} |")
        lines.append("")
    return "\n".join(lines)


def note(source: str, place: str) -> str:
    """Return a page of paper_notes; a link to a file outside the site becomes the path as text."""
    folder = PurePosixPath(source).parent

    def shown(match: re.Match[str]) -> str:
        """Return a picture of the note as an HTML element, without the XML prologue."""
        svg = (ROOT / _normal(folder / match[2])).read_text(encoding="utf-8")
        words = html.escape(match[1])
        return f'<figure role="img" aria-label="{words}">{_one_line(svg[svg.index("<svg") :])}</figure>'

    def led(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or not target:
            return match[0]
        path = _normal(folder / target)
        if path in NOTES:
            return f"[{words}]({_relative(NOTES[path], place)}{anchor})"
        return words if words.strip("`") == path else f"{words} (`{path}`)"

    text = re.sub(r"!\[([^\]]*)\]\(([^)\s]+\.svg)\)", shown, (ROOT / source).read_text(encoding="utf-8"))
    return re.sub(r"\[([^\]]+)\]\(([^)#\s]*)(#[^)\s]+)?\)", led, text)


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


def _relative(target: str, place: str) -> str:
    return "../" * (len(PurePosixPath(place).parts) - 1) + target


def with_markers(text: str) -> str:
    """Return a page with its markers replaced by generated text."""
    from derive.language import page

    return (
        text.replace("<!-- affdiv language -->", f"```text\n{page()}\n```")
        .replace("<!-- experiment files -->", _docstring("experiment.py"))
        .replace("<!-- designs -->", _docstring("design.py"))
        .replace("<!-- stages -->", _docstring("stages.py"))
        .replace("<!-- own hypotheses -->", _docstring("own_hypotheses.py"))
        .replace("<!-- atlas -->", atlas_list() if "<!-- atlas -->" in text else "")
    )


def _docstring(file: str) -> str:
    """Return the docstring of a module of the training runs as a page; the module is not imported."""
    return _as_page(ast.get_docstring(ast.parse((TRAINING / file).read_text("utf-8"))) or "")


def _as_page(docstring: str) -> str:
    """Return a docstring as Markdown, its indented blocks as TOML."""
    text = re.sub(r"(?m)(^    .*\n?)+", lambda m: "```toml\n" + re.sub(r"(?m)^    ", "", m[0]) + "```\n", docstring)
    return text.replace("``", "`").replace("```toml", "\n```toml") if "```" not in docstring else docstring


def with_formulas(text: str) -> str:
    """Return a page with its formulas, written in GitHub's form, as MathML."""
    from derive.export.mathml import formula

    text = re.sub(r"^```math\n(.*?)\n```$", lambda m: _displayed(m[1]), text, flags=re.M | re.S)
    return re.sub(r"\$`(.+?)`\$", lambda m: _one_line(formula(m[1])), text)


def _displayed(latex: str) -> str:
    """Return a displayed formula, which scrolls if it is wider than the page."""
    from derive.export.mathml import formula

    return f'\n<div style="overflow-x: auto; margin: 1em 0">{_one_line(formula(latex, display=True))}</div>\n'


def _one_line(element: str) -> str:
    return " ".join(element.split())


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for place, text in generated():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace markers and formulas of a page."""
    return with_formulas(with_markers(markdown))
