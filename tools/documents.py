"""Write the documents that are made from the code: `python -m tools.documents`. Tests hold them equal."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from chaos.schema import schema_text
from reference.edge.runtimes.docker.fields import document as docker_fields_document
from reference.protocol.asyncapi import document as asyncapi_document
from reference.protocol.envelope import generate_key
from reference.service.app import Parts, create_app
from reference.service.auth import DevelopmentIssuer, rights_document
from reference.service.store import Store
from reference.support.mqtt import MqttLink
from tools.chaos_faults import document as chaos_faults_document
from tools.crash_picture import crash_picture

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def openapi_json() -> str:
    """The description of the API, of an application that is made and never started."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        store = Store.open(data / "service.db")
        try:
            link = MqttLink("localhost", 1, "nobody", None, subscriptions=())
            app = create_app(Parts(store, link, generate_key(), DevelopmentIssuer.open(data)))
            return _pretty(app.openapi())
        finally:
            asyncio.run(store.close())


def asyncapi_json() -> str:
    """The description of the wire."""
    return _pretty(asyncapi_document())


def _pretty(document: Mapping[str, object]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=False) + "\n"


DOCUMENTS: Mapping[str, Callable[[], str]] = {
    "openapi.json": openapi_json,
    "asyncapi.json": asyncapi_json,
    "rights.md": rights_document,
    "docker-fields.md": docker_fields_document,
    "chaos-faults.md": chaos_faults_document,
    "crash-safety.svg": crash_picture,
}
"""In docs/."""
ELSEWHERE: Mapping[str, Callable[[], str]] = {"scenarios/schema.json": schema_text}


if __name__ == "__main__":
    for name, make in DOCUMENTS.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
        print(f"docs/{name}")
    for name, make in ELSEWHERE.items():
        (ROOT / name).write_text(make(), encoding="utf-8")
        print(name)
