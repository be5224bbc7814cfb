"""The description of the API says what is there, completely, and its examples are true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from reference.service.auth import OPEN, ROLES, rights_document
from tests.service.harness import Service
from tools.documents import DOCUMENTS

ONE_DATABASE = True
ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


@pytest.fixture
async def document(service: Service) -> Json:
    found: Json = (await service.http.get("/api/v1/openapi.json")).json()
    return found


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def _resolve(document: Json, part: Json) -> Json:
    while "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def _media(document: Json) -> Iterator[tuple[str, Json]]:
    for method, path, operation in _operations(document):
        for name, media in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{method} {path} request {name}", media
        for status, response in operation["responses"].items():
            for name, media in _resolve(document, response).get("content", {}).items():
                yield f"{method} {path} {status} {name}", media


def test_every_operation_is_described(document: Json) -> None:
    ids = [operation["operationId"] for _, _, operation in _operations(document)]
    assert len(set(ids)) == len(ids)
    described = {(method, path) for method, path, _ in _operations(document)}
    assert described == ROLES.keys() | (OPEN.keys() - {("GET", "/api/v1/openapi.json")})
    assert document["openapi"].startswith("3.1")
    for method, path, operation in _operations(document):
        assert operation["summary"], path
        assert operation["description"], path
        assert operation["tags"], path
        assert operation["security"] == ([{"bearer": []}] if (method, path) in ROLES else []), path
        assert operation.get("x-roles") == (sorted(ROLES[method, path]) if (method, path) in ROLES else None)


def test_every_request_and_answer_has_an_example_that_fits(document: Json) -> None:
    places = list(_media(document))
    assert len(places) > 50
    for where, media in places:
        example = media.get("example")
        assert example is not None or "examples" in media, f"{where} has no example"
        if "application/" in where and "json" in where and example is not None:
            schema = {**media["schema"], "components": document["components"]}
            errors = [error.message for error in jsonschema_rs.validator_for(schema).iter_errors(example)]
            assert not errors, f"{where}: {errors}"


def test_problems_are_told_apart(document: Json) -> None:
    for method, path, operation in _operations(document):
        statuses = set(operation["responses"])
        if (method, path) in ROLES:
            assert statuses >= {"401", "403", "503"}, path
        if "requestBody" in operation:
            assert statuses >= {"413", "422"}, path
        for status in statuses:
            if int(status) >= 400:
                response = _resolve(document, operation["responses"][status])
                assert list(response["content"]) == ["application/problem+json"], (path, status)
                assert response["content"]["application/problem+json"]["example"]["status"] == int(status)
    assert "HTTPValidationError" not in json.dumps(document)


def test_no_reference_leads_nowhere(document: Json) -> None:
    def walk(part: object) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                assert _resolve(document, part)
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(document)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_committed_documents_are_what_the_code_says(name: str) -> None:
    kept = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert kept == DOCUMENTS[name](), f"run: python -m tools.documents (docs/{name})"


def test_the_document_of_rights_names_every_route() -> None:
    text = rights_document()
    assert all(f"`{method} {path}`" in text for method, path in ROLES.keys() | OPEN.keys())
