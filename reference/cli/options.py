"""What many commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Url = Annotated[str | None, typer.Option("--url", help="The service. Default: the one that `up` runs here.")]
Token = Annotated[str | None, typer.Option("--token", help="A bearer token. Default: the one of `up`.")]
Data = Annotated[Path, typer.Option("--data", help="Folder of the stack that `up` runs.")]
Limit = Annotated[int, typer.Option("--limit", help="Show so many at most.", min=1, max=100_000)]
ClientArgument = Annotated[str, typer.Argument(metavar="CLIENT", help="The client's id, e.g. edge-1")]


def nothing_before(context: typer.Context) -> None:
    """`list --url X add ID` would leave `--url X` unheard: options stand behind the command. Raises InputError."""
    from reference.core.errors import InputError

    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            command = context.invoked_subcommand
            raise InputError(
                f"stands before `{command}`", where=f"--{name}", todo=f"Options come behind `{command}`."
            )


def segment(text: str) -> str:
    """A name as one segment of an address, whatever it holds."""
    return quote(text, safe="")
