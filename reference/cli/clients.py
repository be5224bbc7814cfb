"""`blackstart clients ...`: who is there, who may come, and who may not any more."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from reference.cli.api import DEFAULT_DATA, Api
from reference.cli.options import AsJson, ClientArgument, Data, Limit, Token, Url, nothing_before, segment
from reference.cli.output import show_json, show_list, show_table, spoken
from reference.core.errors import BlackstartError, Reason

app = typer.Typer(
    help="The clients: what runs on them; let one in, lock one out. Alone it lists them.",
    invoke_without_command=True,
)
COLUMNS = {
    "CLIENT": "clientId",
    "PRESENCE": "presence",
    "RUNS": "runningVersion",
    "PREVIOUS": "previousVersion",
    "LAST JOB": "lastJob",
    "LAST SEEN": "lastSeenAt",
}


@app.callback()
def clients(
    context: typer.Context,
    presence: Annotated[
        str | None, typer.Option(help="Only these: online, offline (silent for 3 minutes) or never.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Only those that run this version.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Only those whose id begins so.")] = None,
    limit: Limit = 1000,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """List the clients: whether they are there, what runs on them, what a rollback would bring back."""
    with spoken():
        if context.invoked_subcommand is not None:
            nothing_before(context)
            return
        query = {"presence": presence, "runningVersion": version, "prefix": prefix}
        found = Api(url, token, data).pages("/api/v1/clients", limit, query)
        show_list(found, COLUMNS, as_json, "No clients: `blackstart clients add ID`.")


@app.command("add")
def add(
    client: ClientArgument,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Make a client known; prints its registration token.

    `blackstart edge enrol` trades it for the device's certificate. The token is printed alone on standard output; it is good for one device, once, for 24 hours, and shown only here.
    """
    with spoken():
        found = Api(url, token, data).post("/api/v1/clients", {"clientId": client})
        if found.get("registrationToken") is None and not as_json:
            raise BlackstartError(
                f"{client} is known already",
                reason=Reason.CONFLICT,
                todo=f"A new token for it: blackstart clients token {client}",
            )
        _show_token(found, as_json)


@app.command("show")
def show(
    client: ClientArgument,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Show one client."""
    with spoken():
        found = Api(url, token, data).get(f"/api/v1/clients/{segment(client)}")
        show_json(found) if as_json else show_table([found], COLUMNS, "")


@app.command("token")
def new_token(
    client: ClientArgument,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Print a new registration token for a client. The one before it is worth nothing from then on."""
    with spoken():
        path = f"/api/v1/clients/{segment(client)}/registration-token"
        _show_token(Api(url, token, data).post(path), as_json)


@app.command("revoke")
def revoke(
    client: ClientArgument,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Lock a device out.

    Its certificates and its registration token open nothing any more. What runs on it goes on running. A new token (`clients token`) lets a device in again, with a new key.
    """
    with spoken():
        found = Api(url, token, data).post(f"/api/v1/clients/{segment(client)}/revoke")
        if as_json:
            show_json(found)
            return
        count = found.get("revokedCertificates")
        print(f"{client} is locked out: {count} certificate{'' if count == 1 else 's'} revoked")
        if not found.get("published"):
            print(
                "brokers do not know it yet: their list could not be written, and is tried again",
                file=sys.stderr,
            )


def _show_token(found: dict[str, object], as_json: bool) -> None:
    if as_json:
        show_json(
            {key: found.get(key) for key in ("clientId", "registrationToken")} | {"expiresAt": _expiry(found)}
        )
        return
    print(
        f"registration token of {found.get('clientId')}, good once, until {_expiry(found)}:", file=sys.stderr
    )
    sys.stderr.flush()
    print(found.get("registrationToken"))


def _expiry(found: dict[str, object]) -> object:
    return found.get("registrationTokenExpiresAt") or found.get("expiresAt")
