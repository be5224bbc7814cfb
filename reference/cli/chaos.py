"""`blackstart chaos ...`: scenario files, checked, written and listed. Each command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reference.cli.options import AsJson
from reference.cli.output import spoken

app = typer.Typer(
    help="Chaos: scenarios against real parts, proof that each fault fired, and a verdict.",
    no_args_is_help=True,
)

Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[PATH]...",
        help="Scenario files and folders. Default: ./scenarios, else those of Blackstart.",
    ),
]


@app.command()
def validate(paths: Paths = None, as_json: AsJson = False) -> None:
    """Say all that is wrong with scenario files, one thing a line, with file and line. Exit code 2 when anything is."""
    with spoken():
        from reference.cli.chaos_files import validate as run

        code = run(paths, as_json)
    raise typer.Exit(code)


@app.command()
def new(
    file: Annotated[
        Path | None,
        typer.Argument(help="Where it is written. Default: named after the title, in ./scenarios."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="What it is about, in a few words.")] = None,
    begins: Annotated[str | None, typer.Option(help="The version that runs before; `none` for none.")] = None,
    fault: Annotated[str | None, typer.Option(help="`blackstart chaos list --faults` has them.")] = None,
    link: Annotated[str | None, typer.Option(help="Where, for faults of the network.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="KEY=VALUE", help="What the fault takes; again for more."),
    ] = None,
    when: Annotated[
        str | None,
        typer.Option(
            help="`start`, a phase (verifying), an event (client-down), a time (2s), or 50% of the pull."
        ),
    ] = None,
    lasts: Annotated[
        str | None, typer.Option("--for", help="How long it lasts: 5s; `end` for all along.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="The version that is asked for. Default: 2.0.0.")] = None,
    outcome: Annotated[
        str | None, typer.Option(help="succeeded, failed, rolled_back or rollback_failed.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="A reason code, as docs/glossary.md has them.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a scenario: ten lines that can be played at once, and be changed by hand.

    It asks for what was not given. With --title and --fault nothing is asked: the rest has its usual value.
    """
    with spoken():
        from reference.cli.chaos_files import new as run

        options = {
            "title": title, "begins": begins, "fault": fault, "link": link, "when": when, "for": lasts, "to": to,
            "outcome": outcome, "reason": reason,
        }  # fmt: skip
        run(
            file,
            {key: value for key, value in options.items() if value is not None},
            settings or [],
            force,
            as_json,
        )


@app.command("list")
def list_(
    paths: Paths = None,
    faults: Annotated[
        bool,
        typer.Option("--faults", help="The faults instead: what each takes and needs, and what shows it."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List scenarios: name, faults, what each proves, and what of it is missing on this machine."""
    with spoken():
        from reference.cli import chaos_files

        code = (
            chaos_files.list_faults(paths, as_json) if faults else chaos_files.list_scenarios(paths, as_json)
        )
    raise typer.Exit(code)


@app.command()
def schema(
    file: Annotated[
        Path | None, typer.Argument(help="Where it is written. Default: standard output.")
    ] = None,
) -> None:
    """Print the JSON schema of scenarios, or write it: with it editors complete and check what is written.

    A scenario names it in its first line: `# yaml-language-server: $schema=schema.json`.
    """
    with spoken():
        from chaos.new import write
        from chaos.schema import schema_text

        if file is None:
            print(schema_text(), end="")
        else:
            write(file, schema_text())


@app.command()
def run(
    paths: Paths = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="In place of each scenario's own: what is drawn is drawn from it.", min=0, max=2**63 - 1
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Folder of the reports: index.html, report.json, junit.xml, and one folder a run."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="An earlier report (its folder, or report.json) to compare with.")
    ] = None,
    lanes: Annotated[int, typer.Option("--jobs", help="Scenarios at once.", min=1, max=64)] = 2,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep each bench's logs, journals and volumes in the report.")
    ] = False,
    again: Annotated[
        int,
        typer.Option(
            help="Play what could not be judged again, at most so often; the report says so.", min=0, max=9
        ),
    ] = 0,
    no_skips: Annotated[
        bool, typer.Option("--no-skips", help="What cannot be played here counts as unknown: for CI.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Play scenarios on real parts, and judge them.

    Exit codes: 0 all passed (what cannot be played here is skipped, with the reason), 1 one failed, 2 a file is wrong, 3
    one is unknown: it could not be judged, for one because a fault was never shown to have happened.
    """
    with spoken():
        from chaos.runner import Options
        from reference.cli.chaos_run import run as play

        code = play(paths, Options(seed, again=again), report, compare, lanes, keep, no_skips, as_json)
    raise typer.Exit(code)


@app.command()
def soak(
    minutes: Annotated[
        float, typer.Option(help="How long, at least one round of about a minute.", min=0.1, max=10_000)
    ] = 10.0,
    seed: Annotated[
        int | None,
        typer.Option(help="The same seed draws the same faults. Default: a new one.", min=0, max=2**63 - 1),
    ] = None,
    devices: Annotated[int, typer.Option(help="On the bench.", min=1, max=50)] = 20,
    report: Annotated[
        Path | None, typer.Option(help="Folder for what is found: scenarios, histories, logs. Default: here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw random faults against many devices under continuous updates; make a small scenario of what is found.

    Exit codes: 0 no violation, 1 violations, 3 nothing was done (no update ended, or no fault fired), or it
    was broken off because a fault could not be healed.
    """  # fmt: skip
    with spoken():
        from reference.cli.chaos_soak import run as play

        code = play(minutes, seed, devices, report, as_json)
    raise typer.Exit(code)
