"""Each part alone: `blackstart service`, `broker`, `registry`, `edge ...`. Their own parsers say what they take; here is the way to them.

A part reads its settings the same way however it is started: arguments, then the environment, then a file (see
`--help` of each).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reference.cli.options import AsJson
from reference.cli.output import show_json, spoken

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

edge_app = typer.Typer(help="The edge updater: enrol, run, look inside.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the console command."""
    app.command(context_settings=_PASS_ON)(service)
    app.command(context_settings=_PASS_ON)(broker)
    app.command(context_settings=_PASS_ON)(registry)
    app.command()(pki)
    app.add_typer(edge_app, name="edge")


def service(context: typer.Context) -> None:
    """Run the Device Management Service alone, in the foreground. Settings: `blackstart service --help`."""
    from reference.service.__main__ import main

    raise typer.Exit(main(context.args, "blackstart service"))


def broker(context: typer.Context) -> None:
    """Run a broker alone: the embedded one or Mosquitto. Settings: `blackstart broker --help`."""
    from reference.broker.__main__ import main

    raise typer.Exit(main(context.args, "blackstart broker"))


def registry(context: typer.Context) -> None:
    """Run the local OCI registry alone. `blackstart registry user` makes accounts, `... gc` collects garbage."""
    from reference.registry.main import main

    raise typer.Exit(main(context.args, "blackstart registry"))


def pki(
    folder: Annotated[
        Path, typer.Argument(help="Where it is kept: the authority's key, too. What is there stays.")
    ],
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address of the broker, beside loopback; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a development authority, and what the parts need.

    Certificates for service and broker, and the key that signs commands. What is there already stays as it is.
    """
    with spoken():
        from cryptography.hazmat.primitives import hashes

        from reference.pki.authority import DevelopmentCA
        from reference.pki.signing import command_signing_key

        authority = DevelopmentCA.open_or_create(folder / "ca")
        service, broker = authority.issue_service(), authority.issue_server("broker", host or ())
        signing = command_signing_key(folder / "signing")
        found = {
            "ca_dir": str(folder / "ca"),
            "ca": str(authority.certificate),
            "crl": str(authority.revoked),
            "service_cert": str(service.cert),
            "service_key": str(service.key),
            "broker_cert": str(broker.cert),
            "broker_key": str(broker.key),
            "signing_key": str(signing.private),
            "command_key": str(signing.public),
            "ca_fingerprint": authority.authority.fingerprint(hashes.SHA256()).hex(),
        }
        if as_json:
            show_json(found)
            return
        for name, value in found.items():
            print(f"{name:>14}  {value}")


@edge_app.command(context_settings=_PASS_ON)
def run(context: typer.Context) -> None:
    """Run the updater, in the foreground. The client outlives it."""
    from reference.edge.main import main

    raise typer.Exit(main(context.args))


@edge_app.command(context_settings=_PASS_ON)
def enrol(context: typer.Context) -> None:
    """Trade a registration token for a certificate."""
    from reference.edge.enrol import main

    raise typer.Exit(main(context.args))


@edge_app.command(context_settings=_PASS_ON)
def status(context: typer.Context) -> None:
    """Show what the updater does, what runs and what would come back."""
    from reference.edge.inspect import main

    raise typer.Exit(main(["status", *context.args]))


@edge_app.command(context_settings=_PASS_ON)
def journal(context: typer.Context) -> None:
    """Show the journal's last entries."""
    from reference.edge.inspect import main

    raise typer.Exit(main(["journal", *context.args]))


@edge_app.command(context_settings=_PASS_ON)
def adopt(context: typer.Context) -> None:
    """Make a container that was made by hand the client that is updated here (runtime `docker`)."""
    from reference.edge.adopt import main

    raise typer.Exit(main(context.args))


@edge_app.command(context_settings=_PASS_ON)
def hold(context: typer.Context) -> None:
    """Forbid every change on this device until `release`."""
    from reference.edge.hold import main

    raise typer.Exit(main(["hold", *context.args]))


@edge_app.command(context_settings=_PASS_ON)
def release(context: typer.Context) -> None:
    """Allow changes again."""
    from reference.edge.hold import main

    raise typer.Exit(main(["release", *context.args]))
