"""`python -m reference.registry`: the registry alone, from the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reference.core.errors import BlackstartError
from reference.registry.server import RegistrySettings, serve


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reference.registry", description="A local OCI registry.")
    parser.add_argument(
        "--port", type=int, required=True, help="0 lets the system choose; see the ready line"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder for the images")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--no-auth", action="store_true", help="everyone on this machine may pull and push")
    parser.add_argument("--users", type=Path, help="file of accounts, mode 0600")
    parser.add_argument("--tls-cert", type=Path, help="PEM")
    parser.add_argument("--tls-key", type=Path, help="PEM")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: stopped when asked to; 2: bad usage or input."""
    given = _parser().parse_args(arguments)
    settings = RegistrySettings(
        data=given.data,
        port=given.port,
        host=given.host,
        no_auth=given.no_auth,
        users_file=given.users,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
    )
    try:
        serve(settings)
    except BlackstartError as error:
        sys.stderr.write(f"registry: {error}\n")
        return 2
    return 0
