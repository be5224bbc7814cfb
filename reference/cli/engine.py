"""`blackstart engine ...`: a Docker engine of one's own, to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reference.cli.options import AsJson
from reference.cli.output import show_json, show_table, spoken

DEFAULT = Path("blackstart-engine")

app = typer.Typer(
    help="A private Docker engine, to try things on: it never touches the one of this machine.\n\n"
    "It is the installed dockerd (Debian: apt-get install docker.io) with data, socket and bridge of its own. Needs "
    "root. Use it with `docker --host unix://...`, or DOCKER_HOST, as `start` prints it.",
    no_args_is_help=True,
)
Folder = Annotated[Path, typer.Option("--data", help="Folder for its images, containers and volumes.")]


def _say(socket: str, as_json: bool, found: dict[str, object]) -> None:
    if as_json:
        show_json(found)
    else:
        print(f"it answers at {socket}: export DOCKER_HOST={socket}")


@app.command()
def start(
    data: Folder = DEFAULT,
    iptables: Annotated[
        bool,
        typer.Option(
            "--iptables",
            help="Let it write iptables rules, so that containers reach the world outside. Only where no other engine "
            "runs: two of them empty each other's rules.",
        ),
    ] = False,
    live_restore: Annotated[
        bool, typer.Option(help="Containers go on while dockerd is down or restarts.")
    ] = True,
    storage_driver: Annotated[str, typer.Option(help="How it keeps layers.")] = "overlay2",
    as_json: AsJson = False,
) -> None:
    """Start it, and come back when it answers. It runs until `blackstart engine stop`.

    What an earlier one left behind in the folder, killed by a power cut say, is cleared first; its images and volumes
    are there again. Containers reach each other and this machine (--iptables: the world, too), and published ports
    work. A registry on 127.0.0.1 may be plain http.
    """
    with spoken():
        from reference.engine import PrivateEngine

        private = PrivateEngine(
            data, live_restore=live_restore, iptables=iptables, storage_driver=storage_driver
        )
        private.start(outlives_us=True)
        _say(private.host, as_json, private.status())


@app.command()
def restart(data: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Let its dockerd end and start it again, as after an upgrade. Containers go on (--live-restore)."""
    with spoken():
        from reference.engine import PrivateEngine

        private = PrivateEngine(data)
        private.restart()
        _say(private.host, as_json, private.status())


@app.command()
def stop(
    data: Folder = DEFAULT,
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove its images and volumes, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take it down: containers, networks, daemons, mounts, links. Images and volumes stay in its folder."""
    with spoken():
        from reference.engine import PrivateEngine

        private = PrivateEngine(data)
        was_up = private.record is not None
        private.stop()
        if wipe:
            private.wipe()
        if as_json:
            show_json({"ended": was_up})
        else:
            print("ended" if was_up else "no engine was up there")


@app.command()
def status(data: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Say how it is: exit code 0 when it answers, 1 when it does not."""
    with spoken():
        from reference.engine import PrivateEngine

        found = PrivateEngine(data).status()
        if as_json:
            show_json(found)
        else:
            rows = [{"what": key, "value": value} for key, value in found.items()]
            show_table(rows, {"WHAT": "what", "VALUE": "value"}, "")
    raise typer.Exit(0 if found["answers"] else 1)
