"""``affdiv playground``: write the web page. Its imports are deferred to the call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verify.training.cli import Json


def playground(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write; replaces an older playground."),
    ] = Path("playground"),
    pyodide: Annotated[
        Path | None,
        typer.Option("--pyodide", metavar="FOLDER", help="Take Pyodide from this folder instead of npm."),
    ] = None,
    json: Json = False,
) -> None:
    """Write the playground: a page that derives any layer inside the browser.

    Serve the folder with any file server, such as `python -m http.server --directory playground`. Once loaded, the page
    works without a network. Takes half a minute and needs npm to download Pyodide.
    """
    from derive.errors import UsageError
    from verify.files import check_folder
    from verify.playground.build import build
    from verify.run.table import print_json

    if pyodide is not None and not pyodide.is_dir():
        raise UsageError(f"--pyodide {str(pyodide)!r} is not a folder; name a folder with pyodide.mjs")
    output = output.absolute()
    check_folder(output.parent, (), "--output")
    written = build(output, pyodide)
    if json:
        print_json({"schema": "affdiv.playground/1", "folder": str(output), "files": written})
        return
    typer.echo(f"written: {output} ({len(written)} files)")
    typer.echo(f"serve it: python -m http.server --directory {output} and open http://localhost:8000")
