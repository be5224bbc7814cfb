"""`blackstart ...`: every command, each importing what it needs only when it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from reference.cli import parts
from reference.cli.api import DEFAULT_DATA, Api
from reference.cli.output import BAD_INPUT, FAILED, UNKNOWN, show_json, show_table, spoken

app = typer.Typer(
    name="blackstart",
    help="Update software on fleets of edge devices, and prove that the update survives anything.\n\n"
    "Start with `blackstart demo` (every promise, shown in a minute) or `blackstart up` (the whole stack, to try).\n\n"
    "Exit codes: 0 good, 1 the thing failed, 2 bad usage or input, 3 unknown.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
versions_app = typer.Typer(help="The versions that clients can be updated to.", invoke_without_command=True)
image_app = typer.Typer(help="Make OCI images without an engine.", no_args_is_help=True)
app.add_typer(versions_app, name="versions")
app.add_typer(image_app, name="image")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Url = Annotated[str | None, typer.Option("--url", help="The service. Default: the one that `up` runs here.")]
Token = Annotated[str | None, typer.Option("--token", help="A bearer token. Default: the one of `up`.")]
Data = Annotated[Path, typer.Option("--data", help="Folder of the stack that `up` runs.")]

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


@app.command()
def up(
    data: Data = DEFAULT_DATA,
    port: Annotated[int, typer.Option(help="Port of the API.", min=0, max=65535)] = 8080,
    broker: Annotated[
        str, typer.Option(help="amqtt (embedded) or mosquitto (installed; MQTT 5, keeps sessions).")
    ] = "amqtt",
    database: Annotated[
        str | None,
        typer.Option(
            help="postgresql+psycopg://... for the service; SQLite without it.", envvar="BLACKSTART_DATABASE"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole stack here, in the foreground, with one device, until Ctrl-C."""
    with spoken():
        from reference.cli.up import run_up

        run_up(data, port, as_json, broker, database)


@app.command()
def clients(as_json: AsJson = False, url: Url = None, token: Token = None, data: Data = DEFAULT_DATA) -> None:
    """List the clients and what runs on them."""
    with spoken():
        found = Api(url, token, data).get("/api/v1/clients")
        columns = {
            "CLIENT": "clientId",
            "PRESENCE": "presence",
            "RUNS": "runningVersion",
            "DIGEST": "runningDigest",
            "LAST SEEN": "lastSeenAt",
        }
        _list(found, columns, as_json, "No clients yet.")


@versions_app.callback()
def versions(
    context: typer.Context,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """List the versions that clients can be updated to."""
    if context.invoked_subcommand is None:
        with spoken():
            found = Api(url, token, data).get("/api/v1/versions")
            columns = {"VERSION": "version", "REPOSITORY": "repository", "DIGEST": "digest"}
            _list(found, columns, as_json, "No versions yet: `blackstart versions add`.")


@versions_app.command("add")
def versions_add(
    version: Annotated[str, typer.Argument(help="Its name, e.g. 2.1.0")],
    image: Annotated[str, typer.Option(help="REPOSITORY@DIGEST, as `image push` prints it.")],
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Register a version: an image by digest."""
    with spoken():
        from reference.core.errors import InputError

        repository, at, digest = image.partition("@")
        if not at:
            raise InputError(
                "an image is named by digest here", where="--image", todo="Give REPOSITORY@sha256:..."
            )
        body = {"version": version, "repository": repository, "digest": digest}
        found = Api(url, token, data).post("/api/v1/versions", body)
        show_json(found) if as_json else print(f"{version} is {digest}")


@app.command()
def update(
    client: Annotated[str, typer.Argument(help="The client's id.")],
    to: Annotated[str, typer.Option("--to", help="The version it shall run.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; exit 1 unless it succeeded.")
    ] = False,
    supersede: Annotated[bool, typer.Option("--supersede", help="Put an open job aside.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Update a client to a version."""
    with spoken():
        api = Api(url, token, data)
        body = {"targetVersion": to}
        _started(api, api.order(f"/api/v1/clients/{_segment(client)}/update", body, supersede), wait, as_json)


@versions_app.command("withdraw")
def versions_withdraw(
    version: Annotated[str, typer.Argument(help="Its name, e.g. 2.1.0")],
    restore: Annotated[bool, typer.Option("--restore", help="Let it be ordered again.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Let no update order a version any more."""
    with spoken():
        what = "restore" if restore else "withdraw"
        found = Api(url, token, data).post(f"/api/v1/versions/{_segment(version)}/{what}")
        show_json(found) if as_json else print(f"{version} is {'restored' if restore else 'withdrawn'}")


@app.command()
def rollback(
    client: Annotated[str, typer.Argument(help="The client's id.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; exit 1 unless it succeeded.")
    ] = False,
    supersede: Annotated[bool, typer.Option("--supersede", help="Put an open job aside.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Bring a client back to the version that it ran before."""
    with spoken():
        api = Api(url, token, data)
        _started(
            api, api.order(f"/api/v1/clients/{_segment(client)}/rollback", None, supersede), wait, as_json
        )


@app.command()
def cancel(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")],
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Cancel a job. A device that has begun to switch finishes all the same."""
    with spoken():
        _show_job(Api(url, token, data).post(f"/api/v1/jobs/{_segment(job_id)}/cancel"), as_json)


@app.command()
def events(
    after: Annotated[
        int | None, typer.Option(help="Begin behind this one; 0: all that are kept. Default: from now on.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Print what happens, one JSON document a line."""
    with spoken():
        import json

        for event in Api(url, token, data).events(after, follow=follow):
            print(json.dumps(event), flush=True)


@app.command()
def job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")],
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Show a job."""
    with spoken():
        found = Api(url, token, data).get(f"/api/v1/jobs/{_segment(job_id)}")
        _show_job(found, as_json)


@app.command()
def token(
    role: Annotated[str, typer.Option(help="Administrator, Engineer, Operator or Viewer.")] = "Administrator",
    tenant: Annotated[str, typer.Option(help="The tenant that it is for.")] = "acme",
    subject: Annotated[str, typer.Option(help="Who it names.")] = "local",
    data: Data = DEFAULT_DATA,
    as_json: AsJson = False,
) -> None:
    """Print a bearer token of the development issuer of the stack in --data."""
    with spoken():
        from reference.core.errors import InputError
        from reference.service.auth import Role, issue_token

        try:
            known = Role(role)
        except ValueError:
            raise InputError(
                f"no role {role!r}", where="--role", todo=f"One of: {', '.join(Role)}."
            ) from None
        made = issue_token(data / "service", subject=subject, tenant=tenant, role=known)
        show_json({"token": made, "role": known, "tenant": tenant}) if as_json else print(made)


@image_app.command("build")
def image_build(
    folder: Annotated[Path, typer.Argument(help="The application: it lands under /app.")],
    out: Annotated[Path, typer.Argument(help="Where the OCI layout is written.")],
    version: Annotated[str, typer.Option(help="The version that it is.")],
    as_json: AsJson = False,
) -> None:
    """Make an OCI image of a folder; the same folder gives the same bits."""
    with spoken():
        from reference.oci.build import build_image

        built = build_image(folder, out, version=version)
        found = {"digest": built.manifest_digest, "layout": str(out), "version": version}
        show_json(found) if as_json else print(built.manifest_digest)


@image_app.command("push")
def image_push(
    layout: Annotated[Path, typer.Argument(help="The OCI layout that `image build` wrote.")],
    reference: Annotated[str, typer.Argument(help="HOST[:PORT]/NAME:TAG")],
    user: Annotated[str | None, typer.Option(help="USER:PASSWORD", envvar="BLACKSTART_REGISTRY_USER")] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="Without TLS.")] = False,
    ca: Annotated[
        Path | None, typer.Option(help="The authority that signed the registry's certificate.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Push an image to a registry and print REPOSITORY@DIGEST."""
    with spoken():
        from reference.core.errors import InputError
        from reference.oci.push import push_image
        from reference.oci.references import parse_reference

        credentials = None
        if user is not None:
            name, colon, password = user.partition(":")
            if not colon:
                raise InputError("no password in it", where="--user", todo="Give USER:PASSWORD.")
            credentials = (name, password)
        target = parse_reference(reference)
        digest = push_image(layout, target, credentials=credentials, plain_http=plain_http, ca_file=ca)
        named = f"{target.host}/{target.name}@{digest}"
        show_json({"image": named, "digest": digest}) if as_json else print(named)


@app.command()
def demo(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only this story; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the devices' jitter.")] = None,
    report: Annotated[Path, typer.Option(help="Where the report is written.")] = Path("report.json"),
    keep: Annotated[Path | None, typer.Option(help="Keep logs, journals and volumes in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Play every story on real parts and judge it from outside."""
    with spoken():
        from reference.cli.demo import run

        code = run(only or [], seed, report, keep, as_json)
    raise typer.Exit(code)


@app.command()
def registry(
    data: Annotated[Path, typer.Option("--data", help="Folder that keeps the blobs.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 5000,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Plain HTTP for anyone, on loopback only.")
    ] = False,
    users: Annotated[Path | None, typer.Option(help="File of accounts, mode 0600.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the local OCI registry alone, in the foreground."""
    with spoken():
        from reference.registry.server import RegistrySettings, say_ready, serve

        def ready(at: int) -> None:
            who = "anyone on this machine" if no_auth else f"the accounts in {users}"
            print(f"registry at http://127.0.0.1:{at} for {who}; Ctrl-C stops it", flush=True)

        settings = RegistrySettings(data=data, port=port, no_auth=no_auth, users_file=users)
        serve(settings, on_ready=say_ready if as_json else ready)


parts.add_to(app)


def run() -> None:
    """The console command's entry."""
    app()


def _segment(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def _list(found: dict[str, object], columns: dict[str, str], as_json: bool, empty: str) -> None:
    if as_json:
        show_json(found)
        return
    rows = found.get("items")
    show_table(rows if isinstance(rows, list) else [], columns, empty)


def _show_job(found: dict[str, object], as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    show_table([found], JOB_COLUMNS, "")
    reason = found.get("reason")
    if isinstance(reason, dict) and reason.get("message"):
        print(f"\n{reason['message']}")


def _started(api: Api, answer: dict[str, object], wait: bool, as_json: bool) -> None:
    job_id = str(answer.get("jobId"))
    if not wait:
        show_json(answer) if as_json else print(f"job {job_id}; follow it: blackstart job {job_id}")
        return
    _end_with(_follow(api, job_id, quiet=as_json), as_json)


def _follow(api: Api, job_id: str, quiet: bool) -> dict[str, object]:
    from rich.console import Console

    console, end = Console(stderr=True, quiet=quiet), time.monotonic() + WAIT_LIMIT_S
    with console.status("QUEUED") as line:
        while True:
            found = api.get(f"/api/v1/jobs/{job_id}")
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


__all__ = ["BAD_INPUT", "app", "run"]
