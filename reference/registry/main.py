"""`python -m reference.registry`: the registry alone, from the command line.

What can be given as `--name` can also come from a file (`--config`, YAML: `name: value`) and from the environment
(`BLACKSTART_REGISTRY_NAME`). The command line wins over the environment, and that over the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from reference.core.errors import BlackstartError, InputError
from reference.registry.access import Scheme
from reference.registry.collect import GRACE_S, Collection
from reference.registry.server import RegistrySettings, serve
from reference.registry.storage import Storage
from reference.registry.users import RegistryUsers, make_user

PROGRAM = "python -m reference.registry"
ENVIRONMENT = "BLACKSTART_REGISTRY_"
MAX_CONFIG_BYTES = 1 << 20
_FLAGS = frozenset({"no-auth", "anonymous-pull"})
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="A local OCI registry.",
        epilog=f"Options also come from --config and from {ENVIRONMENT}NAME. "
        f"`{program} gc --data DIR` collects garbage, `{program} user NAME --users FILE` makes an account: see their --help.",
    )
    parser.add_argument("--config", type=Path, help="YAML file of options, without their dashes")
    parser.add_argument(
        "--port",
        type=int,
        default=5000,
        help="usually 5000; 0: any free one, named in the line that is printed",
    )
    parser.add_argument("--data", type=Path, help="needed; folder for the images")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (usually 127.0.0.1); others want TLS"
    )
    parser.add_argument("--no-auth", action="store_true", help="everyone on this machine may pull and push")
    parser.add_argument("--users", type=Path, help="file of accounts, mode 0600")
    parser.add_argument(
        "--auth",
        type=Scheme,
        choices=list(Scheme),
        default=Scheme.BASIC,
        help="what strangers are told to use",
    )
    parser.add_argument("--anonymous-pull", action="store_true", help="who has no account may pull")
    parser.add_argument(
        "--token-realm", help="address of /token, if clients reach it at another than this one"
    )
    parser.add_argument("--tls-cert", type=Path, help="certificate for HTTPS, PEM")
    parser.add_argument("--tls-key", type=Path, help="its key, PEM")
    parser.add_argument(
        "--gc-every", type=int, default=0, metavar="S", help="collect garbage so often; 0: never"
    )
    parser.add_argument(
        "--gc-grace", type=int, default=GRACE_S, metavar="S", help="keep so long what nothing refers to"
    )
    return parser


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return {action.dest.replace("_", "-") for action in parser._actions} - {"help", "config"}


def _as_arguments(given: Mapping[str, str], where: str) -> list[str]:
    """Options as if they had been typed. Raises InputError."""
    found: list[str] = []
    for name, value in given.items():
        if name not in _FLAGS:
            found += [f"--{name}={value}"]
        elif value.lower() in _YES:
            found += [f"--{name}"]
        elif value.lower() not in _NO:
            raise InputError(f"{name} is {value!r}", where=where, todo="Say yes or no.")
    return found


def _from_file(path: Path, known: set[str]) -> dict[str, str]:
    import yaml

    try:
        with path.open("rb") as file:
            found: object = yaml.safe_load(file.read(MAX_CONFIG_BYTES))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError("is not YAML", where=str(path)) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError("is not a list of `name: value`", where=str(path))
    options: dict[str, str] = {}
    for key, value in found.items():
        if key not in known:
            raise InputError(
                f"{key!r} is not an option", where=str(path), todo=f"Known: {', '.join(sorted(known))}."
            )
        if not isinstance(value, str | int | bool):
            raise InputError(f"{key} is neither text nor a number", where=str(path))
        options[key] = ("yes" if value else "no") if isinstance(value, bool) else str(value)
    return options


def _from_environment(environment: Mapping[str, str], known: set[str]) -> dict[str, str]:
    names = {ENVIRONMENT + name.replace("-", "_").upper(): name for name in sorted(known)}
    return {name: environment[key] for key, name in names.items() if key in environment}


def settings_of(
    arguments: list[str], environment: Mapping[str, str], program: str = PROGRAM
) -> RegistrySettings:
    """What the command line, the environment and a file say together. Raises InputError; SystemExit for bad usage."""
    parser = _parser(program)
    known = _options(parser)
    file = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    file.add_argument("--config", type=Path)
    typed, _ = file.parse_known_args(arguments)
    config = typed.config or (
        Path(environment[f"{ENVIRONMENT}CONFIG"]) if f"{ENVIRONMENT}CONFIG" in environment else None
    )
    before = _as_arguments(_from_file(config, known), str(config)) if config is not None else []
    before += _as_arguments(_from_environment(environment, known), "environment")
    given = parser.parse_args([*before, *arguments])
    if given.data is None:
        parser.error("--data is needed")
    return RegistrySettings(
        data=given.data,
        port=given.port,
        host=given.host,
        no_auth=given.no_auth,
        users_file=given.users,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
        scheme=given.auth,
        anonymous_pull=given.anonymous_pull,
        token_realm=given.token_realm,
        gc_every_s=given.gc_every,
        gc_grace_s=given.gc_grace,
    )


def collect(arguments: list[str], program: str = PROGRAM) -> int:
    """`gc`: collect garbage in the folder of a registry that does not run; prints JSON. Exit code as of `main`."""
    parser = argparse.ArgumentParser(
        prog=f"{program} gc",
        description="Remove what no manifest refers to. A registry that runs does it itself: --gc-every.",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument(
        "--grace",
        type=int,
        default=GRACE_S,
        metavar="S",
        help=f"keep what is younger than so many seconds (usually {GRACE_S})",
    )
    parser.add_argument("--untagged", action="store_true", help="also manifests that no tag leads to")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    given = parser.parse_args(arguments)
    if not given.data.is_dir():
        raise InputError("there is no such folder", where=str(given.data))
    storage = Storage(given.data)
    try:
        run = Collection(storage, grace_s=given.grace, untagged=given.untagged, dry_run=given.dry_run)
        sys.stdout.write(json.dumps(dataclasses.asdict(run.run())) + "\n")
    except OSError as error:
        raise InputError(f"storage failed: {error}", where=str(given.data)) from error
    finally:
        storage.close()
    return 0


def account(arguments: list[str], program: str = PROGRAM) -> int:
    """`user`: make, change or remove an account in a file. A registry that runs reads it at its next start."""
    parser = argparse.ArgumentParser(
        prog=f"{program} user",
        description="Make or change an account. It may pull, with --push also push and delete. The password is made and "
        "printed, or comes from standard input.",
    )
    parser.add_argument("name", help="the account's name")
    parser.add_argument(
        "--users", type=Path, required=True, help="file of accounts; made when it is not there"
    )
    parser.add_argument("--push", action="store_true", help="it may push and delete, too")
    parser.add_argument(
        "--repository",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only there; * is anything; may be repeated",
    )
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("--remove", action="store_true", help="remove the account instead")
    given = parser.parse_args(arguments)
    users = dict(RegistryUsers.load(given.users).users) if given.users.exists() else {}
    if given.remove:
        if users.pop(given.name, None) is None:
            raise InputError(f"there is no account {given.name!r}", where=str(given.users))
    else:
        made = None if given.password_stdin else secrets.token_urlsafe(24)
        password = made if made is not None else sys.stdin.readline().rstrip("\n")
        users[given.name] = make_user(
            given.name, password, push=given.push, repositories=tuple(given.repository) or ("*",)
        )
        if made is not None:
            sys.stdout.write(made + "\n")
    RegistryUsers(users).save(given.users)
    return 0


def main(arguments: list[str] | None = None, program: str = PROGRAM) -> int:
    """Exit code 0: stopped when asked to, collected, or an account made; 2: bad usage or input."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["gc"]:
            return collect(given[1:], program)
        if given[:1] == ["user"]:
            return account(given[1:], program)
        serve(settings_of(given, os.environ, program))
    except BlackstartError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 2
    return 0
