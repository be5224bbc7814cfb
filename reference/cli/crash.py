"""`blackstart crash ...`: power cuts, played, searched and enumerated. Each command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reference.cli.options import AsJson
from reference.cli.output import spoken

app = typer.Typer(help="Power cuts: what a device is after any of them.", no_args_is_help=True)


@app.command()
def cut(
    cuts: Annotated[
        int,
        typer.Option("--cuts", help="How many, e.g. 60; each takes less than a second, under Docker four."),
    ] = 60,
    seed: Annotated[int, typer.Option(help="Which: a number and a seed name the same cuts.")] = 1,
    runtime: Annotated[str, typer.Option(help="What runs the client: process, docker.")] = "process",
    keep: Annotated[Path | None, typer.Option(help="Keep logs and disk images in this new folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Cut the power of a real disk under a real device, boot it, and judge what is left.

    The device's state lies on an ext4 image on a loop device; its processes are killed and the file system is shut down
    at once, so what was never synced is lost. At least 70 % of the cuts come at uniformly random moments, the others at
    named phases. Needs root and a loop device. Afterwards nothing is mounted, attached or running.

    Under Docker each device has an engine of its own, with its data on that disk and a network of its own; every file of
    every layer is compared after a cut. Needs dockerd and iptables besides; an engine that runs already is left alone.
    """
    with spoken():
        from reference.cli.cut import run

        code = run(cuts, seed, runtime, keep, as_json)
    raise typer.Exit(code)


@app.command()
def search(
    seeds: Annotated[int, typer.Option("--seeds", help="How many, e.g. 10000.")] = 1000,
    seed_base: Annotated[int, typer.Option("--seed-base", help="The first of them.")] = 0,
    processes: Annotated[
        int | None, typer.Option("--processes", help="Play in so many at once. Default: one a core.")
    ] = None,
    save: Annotated[Path, typer.Option("--save", help="Folder for the seeds that fail.")] = Path(),
    replay: Annotated[
        Path | None, typer.Option("--replay", help="Play such a file again, and say what happens.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search random orders of faults beyond the enumeration, in the model world.

    One service and five devices: messages are lost, doubled, late and stale, sessions taken over, clocks jump, the
    service comes back from a backup, everything restarts, and the power goes. A seed draws its faults first; the same
    seed does the same in every process. One that fails is made small and written to a file that `--replay` plays.
    """
    with spoken():
        from reference.cli import search as searching

        if replay is not None:
            code = searching.replay(replay, as_json)
        else:
            code = searching.run(seeds, seed_base, processes, save, as_json)
    raise typer.Exit(code)


@app.command("enumerate")
def enumerate_(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A story, e.g. crash; again for more.")
    ] = None,
    unbounded: Annotated[
        bool,
        typer.Option(
            "--unbounded", help="Any number of cuts, with small limits, until no new state is left."
        ),
    ] = False,
    processes: Annotated[int, typer.Option(help="How many processes; 0: one a core.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Write the first violation here, to be replayed.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Play a file of --save again, step by step.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a heat map (HTML) of which cut leads to which end, and nothing else."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Cut a model device at every atom of every step, and judge every state that comes of it.

    Each story is cut twice anywhere, in rollback and recovery too, and every subset of what was not synced may be lost,
    with one message lost, doubled or out of turn besides. Exit code 1 when something did not hold.
    """
    with spoken():
        from reference.cli import explored

        if replay is not None:
            code = explored.replay(replay, as_json)
        elif report is not None:
            from reference.cli.heat import write

            code = write(only or [], report)
        else:
            code = explored.run(only or [], unbounded, processes, save, as_json)
    raise typer.Exit(code)


@app.command()
def mutants(
    only: Annotated[list[str] | None, typer.Option("--only", help="A mutant; again for more.")] = None,
    processes: Annotated[int, typer.Option(help="How many processes; 0: one a core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Take one safeguard after the other away, and see that an invariant notices.

    Each is looked for without a cut, then with one, then with two, and so on. Controls change nothing that matters and
    have to live. Exit code 1 when a mutant lives or a control does not.
    """
    with spoken():
        from reference.cli import mutated

        code = mutated.run(only or [], processes, as_json)
    raise typer.Exit(code)
