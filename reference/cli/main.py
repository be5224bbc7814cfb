"""`blackstart ...`: every command, each importing what it needs only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reference.cli import chaos, clients, crash, engine, jobs, parts
from reference.cli.api import DEFAULT_DATA, Api
from reference.cli.options import AsJson, Data, Limit, Token, Url, nothing_before, segment
from reference.cli.output import BAD_INPUT, show_json, show_list, spoken

app = typer.Typer(
    name="blackstart",
    help="Update software on fleets of edge devices, and prove that the update survives anything.\n\n"
    "Start with `blackstart demo` (every promise, shown in two minutes) or `blackstart up` (the whole stack, to try).\n\n"
    "Which service is asked: --url and --token, else BLACKSTART_URL, BLACKSTART_TOKEN and BLACKSTART_CA (authorities, "
    "PEM), else the one that `up` runs in this folder.\n\n"
    "Exit codes: 0 good, 1 the thing failed, 2 bad usage or input, 3 unknown.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
versions_app = typer.Typer(
    help="The versions that clients can be updated to. Alone it lists them.", invoke_without_command=True
)
image_app = typer.Typer(help="Make OCI images without an engine.", no_args_is_help=True)
app.add_typer(clients.app, name="clients")
app.add_typer(versions_app, name="versions")
app.add_typer(image_app, name="image")
app.add_typer(crash.app, name="crash")
app.add_typer(chaos.app, name="chaos")
app.add_typer(engine.app, name="engine")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as installed

        try:
            print(f"blackstart {installed('blackstart')}")
        except PackageNotFoundError:
            print("blackstart, not installed")
        raise typer.Exit


@app.callback()
def blackstart(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The console command itself."""


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
    detach: Annotated[
        bool, typer.Option("--detach", help="Come back when it is ready; `blackstart down` ends it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the whole stack here, with one device, until Ctrl-C.

    With --detach it comes back when all is ready, and runs until `blackstart down`. A second device, edge-2, is made
    ready for you to enrol: see the settings file that it names, and README.md.
    """
    with spoken():
        from reference.cli.up import detached, run_up

        (detached if detach else run_up)(data, port, as_json, broker, database)


@app.command()
def down(data: Data = DEFAULT_DATA, as_json: AsJson = False) -> None:
    """End the stack that `up` runs in a folder, with all its devices. What it keeps there stays."""
    with spoken():
        from reference.cli.up import take_down

        ended = take_down(data)
        if as_json:
            show_json({"ended": ended})
        else:
            print("ended" if ended else "nothing runs there")


@versions_app.callback()
def versions(
    context: typer.Context,
    limit: Limit = 1000,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """List the versions that clients can be updated to, the newest first."""
    with spoken():
        if context.invoked_subcommand is not None:
            nothing_before(context)
            return
        found = Api(url, token, data).pages("/api/v1/versions", limit, {})
        columns = {
            "VERSION": "version",
            "REPOSITORY": "repository",
            "DIGEST": "digest",
            "WITHDRAWN": "withdrawnAt",
        }
        show_list(found, columns, as_json, "No versions yet: `blackstart versions add`.")


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
        found = Api(url, token, data).post(f"/api/v1/versions/{segment(version)}/{what}")
        show_json(found) if as_json else print(f"{version} is {'restored' if restore else 'withdrawn'}")


@app.command()
def token(
    role: Annotated[str, typer.Option(help="Administrator, Engineer, Operator or Viewer.")] = "Administrator",
    tenant: Annotated[str, typer.Option(help="The tenant that it is for.")] = "acme",
    subject: Annotated[str, typer.Option(help="Who it names.")] = "local",
    data: Data = DEFAULT_DATA,
    as_json: AsJson = False,
) -> None:
    """Print a bearer token of the development issuer.

    Of the stack in --data, or of a service: its folder is then --data/service.
    """
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
    python: Annotated[
        bool,
        typer.Option("--python", help="Put this machine's Python below, so that a Docker engine runs it."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make an OCI image of a folder; the same folder gives the same bits.

    It is started with `python3 /app/main.py`, unless blackstart-image.json in the folder says something else: entrypoint,
    cmd, env, labels, workingDir, architecture, and healthcheck {test, intervalMs, timeoutMs, startPeriodMs, retries}.
    """
    with spoken():
        from reference.oci.base import python_base
        from reference.oci.build import build_image

        built = build_image(folder, out, version=version, base=python_base() if python else None)
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
    broker: Annotated[str, typer.Option(help="amqtt (embedded) or mosquitto (installed).")] = "amqtt",
    runtime: Annotated[
        str, typer.Option(help="What runs the clients: process (embedded) or docker (installed; needs root).")
    ] = "process",
    engine: Annotated[
        str | None,
        typer.Option(
            help="An engine that runs already, unix:///PATH. Without it the demo starts some of its own."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Play every story on real parts and judge it from outside.

    `--runtime docker` plays them on Docker engines that the demo starts, hurts and takes down again, beside whatever
    runs here; each has its own data, socket and bridge. With --engine it uses yours, and leaves out what would stop it.
    """
    with spoken():
        from reference.cli.demo import run

        code = run(only or [], seed, report, keep, as_json, broker, runtime, engine)
    raise typer.Exit(code)


jobs.add_to(app)
parts.add_to(app)


def run() -> None:
    """The console command's entry."""
    app()


__all__ = ["BAD_INPUT", "app", "run"]
