"""Each part alone: `blackstart service`, `broker`, `edge ...`. Their own parsers say what they take; here is the way to them.

A part reads its settings the same way however it is started: arguments, then the environment, then a file (see
`--help` of each).
"""

from __future__ import annotations

import typer

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

edge_app = typer.Typer(
    help="The edge updater of one device: enrol it, run it, look inside it.", no_args_is_help=True
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the console command."""
    app.command(context_settings=_PASS_ON)(service)
    app.command(context_settings=_PASS_ON)(broker)
    app.add_typer(edge_app, name="edge")


def service(context: typer.Context) -> None:
    """Run the Device Management Service alone, in the foreground. Settings: `blackstart service --help`."""
    from reference.service.__main__ import main

    raise typer.Exit(main(context.args, "blackstart service"))


def broker(context: typer.Context) -> None:
    """Run a broker alone: the embedded one or Mosquitto. Settings: `blackstart broker --help`."""
    from reference.broker.__main__ import main

    raise typer.Exit(main(context.args, "blackstart broker"))


@edge_app.command(context_settings=_PASS_ON)
def run(context: typer.Context) -> None:
    """Run the updater, in the foreground. The client outlives it."""
    from reference.edge.main import main

    raise typer.Exit(main(context.args))


@edge_app.command(context_settings=_PASS_ON)
def enrol(context: typer.Context) -> None:
    """Trade a one-time registration token for this device's certificate."""
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
def hold(context: typer.Context) -> None:
    """Forbid every change on this device until `release`."""
    from reference.edge.hold import main

    raise typer.Exit(main(["hold", *context.args]))


@edge_app.command(context_settings=_PASS_ON)
def release(context: typer.Context) -> None:
    """Allow changes again."""
    from reference.edge.hold import main

    raise typer.Exit(main(["release", *context.args]))
