"""Orders and what became of them: `update`, `rollback`, `cancel`, `job`, `jobs`, `events`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from reference.cli.api import DEFAULT_DATA, Api
from reference.cli.options import AsJson, ClientArgument, Data, Limit, Token, Url, segment
from reference.cli.output import FAILED, UNKNOWN, show_json, show_list, show_table, spoken
from reference.core.model import Handover

WAIT_S = 0.3
WAIT_LIMIT_S = 3600.0
TERMINAL = {"SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED"}
JOB_COLUMNS = {
    "JOB": "jobId",
    "CLIENT": "clientId",
    "VERSION": "targetVersion",
    "STATUS": "status",
    "PHASE": "phase",
    "OUTCOME": "outcome",
    "REASON": "reason",
    "DOWNTIME ms": "downtimeMs",
}
LIST_COLUMNS = {"CREATED": "createdAt", **JOB_COLUMNS}

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as `update` prints it.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end; exit 1 unless it succeeded.")]
Supersede = Annotated[
    bool, typer.Option("--supersede", help="Put an open job aside, if it has not switched.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the console command."""
    for command in (update, rollback, cancel, job, jobs, events):
        app.command()(command)


def update(
    client: ClientArgument,
    to: Annotated[
        str, typer.Option("--to", help="The version it shall run; `blackstart versions` lists them.")
    ],
    wait: Wait = False,
    supersede: Supersede = False,
    handover: Annotated[
        Handover | None,
        typer.Option(
            "--handover",
            help="overlap: start the new version beside the old one, where both allow it; else as the version says.",
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Update a client to a version. It rolls back by itself when anything fails."""
    with spoken():
        api = Api(url, token, data)
        policy = {"policy": {"handover": handover.value}} if handover is not None else {}
        body = {"targetVersion": to, **policy}
        _started(api, api.order(f"/api/v1/clients/{segment(client)}/update", body, supersede), wait, as_json)


def rollback(
    client: ClientArgument,
    wait: Wait = False,
    supersede: Supersede = False,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Bring a client back to the version that it ran before."""
    with spoken():
        api = Api(url, token, data)
        _started(
            api, api.order(f"/api/v1/clients/{segment(client)}/rollback", None, supersede), wait, as_json
        )


def cancel(
    job_id: JobArgument,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Cancel a job. A device that has begun to switch finishes all the same."""
    with spoken():
        _show_job(Api(url, token, data).post(f"/api/v1/jobs/{segment(job_id)}/cancel"), as_json)


def job(
    job_id: JobArgument,
    wait: Wait = False,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Show a job, with --wait when it has ended."""
    with spoken():
        api = Api(url, token, data)
        if wait:
            _end_with(_follow(api, job_id, quiet=as_json), as_json)
        else:
            _show_job(api.get(f"/api/v1/jobs/{segment(job_id)}"), as_json)


def jobs(
    client: Annotated[str | None, typer.Option(help="Only this client's.")] = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Only these, e.g. IN_PROGRESS; may be repeated.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Only those to this version.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """List jobs, the newest first."""
    with spoken():
        query = {"client": client, "status": [word.upper() for word in status or []], "version": version}
        found = Api(url, token, data).pages("/api/v1/jobs", limit, query)
        show_list(found, LIST_COLUMNS, as_json, "No jobs: `blackstart update CLIENT --to VERSION`.")


def events(
    after: Annotated[
        int | None,
        typer.Option(help="Begin behind this one. Default: all that are kept; with --follow: from now on."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Print what happens, one JSON document a line."""
    with spoken():
        import json

        begin = 0 if after is None and not follow else after
        for event in Api(url, token, data).events(begin, follow=follow):
            print(json.dumps(event), flush=True)


def _show_job(found: dict[str, object], as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    show_table([found], JOB_COLUMNS, "")
    reason = found.get("reason")
    if isinstance(reason, dict) and reason.get("message"):
        print(f"\n{reason.get('code')}: {reason['message']}")


def _started(api: Api, answer: dict[str, object], wait: bool, as_json: bool) -> None:
    job_id = str(answer.get("jobId"))
    if not wait:
        show_json(answer) if as_json else print(f"job {job_id}; follow it: blackstart job {job_id} --wait")
        return
    _end_with(_follow(api, job_id, quiet=as_json), as_json)


def _follow(api: Api, job_id: str, quiet: bool) -> dict[str, object]:
    from rich.console import Console

    console, end = Console(stderr=True, quiet=quiet), time.monotonic() + WAIT_LIMIT_S
    with console.status("QUEUED") as line:
        while True:
            found = api.get(f"/api/v1/jobs/{segment(job_id)}")
            if found.get("status") in TERMINAL or time.monotonic() > end:
                return found
            line.update(f"{found.get('status')} {found.get('phase') or ''}")
            time.sleep(WAIT_S)


def _end_with(found: dict[str, object], as_json: bool) -> None:
    _show_job(found, as_json)
    status = found.get("status")
    if status not in TERMINAL:
        raise typer.Exit(UNKNOWN)
    if status != "SUCCEEDED":
        raise typer.Exit(FAILED)
