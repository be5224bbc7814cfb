"""The description of the API: what the framework finds in the code, completed with what callers need to know.

Every request and answer gets an example, put together from `EXAMPLES` by the names of its fields, so that a new route
is described as soon as it is there. Rights come from the table, problems from one place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic.alias_generators import to_camel

from reference.core.errors import Reason
from reference.protocol.models import CORRELATION_PATTERN
from reference.service import correlation
from reference.service.auth import OPEN, ROLES
from reference.service.problems import MEDIA_TYPE

Json = dict[str, Any]
"""Part of an OpenAPI document: JSON whose shape OpenAPI 3.1 defines, nothing of the domain."""

SUMMARY = """\
Updates the software of clients in the field: make clients and versions known, order an update, follow the job.

An order is answered with 202 as soon as it is kept; what becomes of it is the job's `status`. Errors are RFC 9457
problems: `reason` is for machines, `detail` for people. Whatever is another tenant's is answered with 404, like what
does not exist. Send `X-Correlation-ID` to find a request again in every log, on the device too."""
TAGS = {
    "clients": "Devices' clients, and what they are told to do.",
    "versions": "What can be installed.",
    "jobs": "What has become of orders.",
    "events": "What happens, as it happens.",
    "enrolment": "How a device gets its certificate.",
    "watching": "For the machines that watch over the service. No token.",
}
_DIGEST = "sha256:" + "cd" * 32
_AT = "2026-03-01T12:00:00.000Z"
EXAMPLES: Mapping[str, object] = {
    "clientId": "press-1", "targetVersion": "2.1.0", "version": "2.1.0", "runningVersion": "2.0.3",
    "previousVersion": "2.0.2", "repository": "registry.example/opc-client", "digest": _DIGEST,
    "runningDigest": "sha256:" + "ab" * 32, "previousDigest": "sha256:" + "ef" * 32, "agentVersion": "0.1.0",
    "jobId": "5f0f3a0e-8f0c-4a53-9a5c-2f7c1f8d2b11", "openJobId": "5f0f3a0e-8f0c-4a53-9a5c-2f7c1f8d2b11",
    "generation": 7, "status": "IN_PROGRESS", "phase": "pulling", "outcome": None, "lateOutcome": None,
    "rolledBack": False, "reason": None, "code": "candidate_exited", "message": "exit code 1", "downtimeMs": 182,
    "createdBy": "alex", "createdAt": _AT, "updatedAt": _AT, "expiresAt": "2026-03-02T12:00:00.000Z",
    "lastSeenAt": _AT, "nextAfter": None, "cursor": None, "nextCursor": None, "probe": "/healthz",
    "startPeriodMs": 10000, "windowMs": 60000, "stableForMs": 10000, "snapshot": False, "probationMs": 0,
    "lockWaitMs": 0, "handover": "stop_first", "correlationId": "order-4711", "checks": {"database": "ok", "broker": "ok"},
    "tenantId": "acme", "hold": False,
}  # fmt: skip
"""By the name of the field, whatever model it is in. A field that is not here shows what its type suggests."""
_CHECKS = {"status": "ready", "checks": {"database": "ok", "broker": "ok"}}
_DETAILS: Mapping[int, tuple[Reason, str]] = {
    400: (Reason.INVALID_INPUT, "The request cannot be read."),
    401: (Reason.UNAUTHENTICATED, "no bearer token was sent. Send 'Authorization: Bearer <token>'."),
    403: (Reason.FORBIDDEN, "the role Viewer may not do this. Allowed: Administrator."),
    404: (Reason.NOT_FOUND, "there is no client 'press-7'."),
    405: (Reason.INVALID_INPUT, "DELETE is not possible here."),
    408: (Reason.INVALID_INPUT, "The body did not arrive within 10 s."),
    409: (Reason.CONFLICT, "a job is open for this client."),
    413: (Reason.INVALID_INPUT, "The body is larger than 65536 bytes."),
    414: (Reason.INVALID_INPUT, "The address is longer than 8192 bytes."),
    422: (Reason.INVALID_INPUT, "body.targetVersion: Field required"),
    431: (Reason.INVALID_INPUT, "The headers are more than 100, or longer than 16384 bytes together."),
    500: (Reason.UNAVAILABLE, "The service has a defect here; its log says more."),
    503: (Reason.UNAVAILABLE, "The service cannot answer now. Try again."),
}
_ALWAYS = (414, 431, 503)
_LOCATION: Json = {"description": "Where it is.", "schema": {"type": "string"}}
_METHODS = ("get", "put", "post", "delete", "patch")


def operation_id(route: APIRoute) -> str:
    """The handler's name, as clients in most languages would call it."""
    return to_camel(route.name)


def install(app: FastAPI) -> None:
    """Make the application describe itself with all of this."""

    def described() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = complete(FastAPI.openapi(app))
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def complete(document: Json) -> Json:
    """The document with examples, rights, problems and headers; the one given is changed."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _problem_schema()
    document["info"]["description"] = SUMMARY
    document["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    document["servers"] = [{"url": "/", "description": "Where this document comes from."}]
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "RS256 or ES256.",
        }
    }
    components["parameters"] = {"CorrelationId": _correlation_parameter()}
    components["headers"] = {"CorrelationId": _correlation_header()}
    used: set[int] = set()
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                used |= _complete_operation(method.upper(), path, item[method], schemas)
    components["responses"] = {f"Problem{status}": _problem_response(status) for status in sorted(used)}
    tags = {tag for item in document["paths"].values() for one in item.values() for tag in one["tags"]}
    document["tags"] = [{"name": tag, "description": TAGS.get(tag, tag)} for tag in sorted(tags)]
    return document


def _complete_operation(method: str, path: str, operation: Json, schemas: Json) -> set[int]:
    """Which problems it can answer with."""
    operation["tags"] = [_tag(path)]
    for parameter in operation.get("parameters", []):
        _without_null(parameter)
    operation["parameters"] = [
        *operation.get("parameters", []), {"$ref": "#/components/parameters/CorrelationId"}
    ]  # fmt: skip
    statuses = {int(status) for status in operation["responses"] if int(status) >= 400} | set(_ALWAYS)
    if (roles := ROLES.get((method, path))) is not None:
        statuses |= {401, 403}
        operation["security"] = [{"bearer": []}]
        operation["x-roles"] = sorted(roles)
        words = operation.get("description", "")
        operation["description"] = f"{words}\n\nRoles: {', '.join(sorted(roles))}.".strip()
    elif (method, path) in OPEN:
        operation["security"] = []
    if "requestBody" in operation:
        statuses |= {408, 413, 422}
        for media in operation["requestBody"]["content"].values():
            _add_example(media, schemas)
    for status in [status for status in operation["responses"] if int(status) < 400]:
        _complete_success(path, operation["responses"][status], schemas)
        if status in ("201", "202"):
            operation["responses"][status]["headers"]["Location"] = _LOCATION
    if "201" in operation["responses"]:
        known = {**operation["responses"]["201"], "description": "It was there already, as asked for."}
        operation["responses"].setdefault("200", known)
    for status in statuses:
        operation["responses"][str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    return statuses


def _without_null(parameter: Json) -> None:
    """An address and a header know no null: what may be left out is simply left out."""
    schema = parameter.get("schema", {})
    alternatives = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if len(alternatives) == 1:
        del schema["anyOf"]
        schema.update(alternatives[0])


def _complete_success(path: str, response: Json, schemas: Json) -> None:
    if path == "/metrics":
        text = {"schema": {"type": "string"}, "example": "blackstart_broker_connected 1.0\n"}
        response["content"] = {"text/plain": text}
    for name, media in response.get("content", {}).items():
        if path == "/readyz":
            media["example"] = _CHECKS
        elif name == "application/json":
            _add_example(media, schemas)
    response.setdefault("headers", {})[correlation.HEADER] = {"$ref": "#/components/headers/CorrelationId"}


def _tag(path: str) -> str:
    found = re.match(r"/api/v1/([a-z]+)", path)
    if found is None:
        return "watching"
    return "enrolment" if found[1].startswith(("enrol", "renew", "certificate")) else found[1]


def _add_example(media: Json, schemas: Json) -> None:
    if "schema" in media and "example" not in media and "examples" not in media:
        media["example"] = example_of(media["schema"], schemas)


def example_of(schema: Json, schemas: Json, name: str = "") -> object:
    """Something that fits a JSON schema, and looks like what it is for."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rsplit("/", 1)[-1]], schemas, name)
    if schema.get("examples"):
        return schema["examples"][0]
    properties = schema.get("properties")
    if properties is not None:
        return {key: example_of(value, schemas, key) for key, value in properties.items()}
    if name in EXAMPLES:
        return EXAMPLES[name]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], schemas, name)
    for word in ("const", "default"):
        if word in schema:
            return schema[word]
    if "enum" in schema:
        return schema["enum"][0]
    return _of_type(schema, schemas, name)


def _of_type(schema: Json, schemas: Json, name: str) -> object:
    made: Json = {"integer": schema.get("minimum", 1), "boolean": False, "string": name or "text"}
    made["number"] = made["integer"]
    if schema.get("type") == "array":
        return [example_of(schema.get("items", {}), schemas, name.removesuffix("s"))]
    return made.get(str(schema.get("type")), {})


def _problem_schema() -> Json:
    text: Json = {"type": "string", "minLength": 1}
    return {
        "title": "Problem",
        "description": "RFC 9457. `type` and `reason` say the same, `reason` as one word of the glossary.",
        "type": "object",
        "required": ["type", "title", "status", "reason", "detail", "instance"],
        "properties": {
            "type": {**text, "format": "uri"},
            "title": text,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "reason": {"type": "string", "enum": [reason.value for reason in Reason]},
            "detail": text,
            "instance": text,
            "correlationId": {"type": "string", "pattern": CORRELATION_PATTERN},
            "jobId": {"type": "string", "description": "The job in the way."},
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["where", "what"],
                    "properties": {"where": {"type": "string"}, "what": {"type": "string"}},
                },
            },
            "checks": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }


def _problem_response(status: int) -> Json:
    reason, detail = _DETAILS.get(status, (Reason.INVALID_INPUT, HTTPStatus(status).phrase))
    example: Json = {
        "type": f"urn:blackstart:problem:{reason.value}", "title": HTTPStatus(status).phrase, "status": status,
        "reason": reason.value, "detail": detail, "instance": "/api/v1/clients/press-1/update",
        "correlationId": EXAMPLES["correlationId"],
    }  # fmt: skip
    if status == 409:
        example["jobId"] = EXAMPLES["jobId"]
    if status == 422:
        example["errors"] = [{"where": "body.targetVersion", "what": "Field required"}]
    headers: Json = {correlation.HEADER: {"$ref": "#/components/headers/CorrelationId"}}
    if status == 401:
        headers["WWW-Authenticate"] = {"required": True, "schema": {"type": "string"}}
    if status == 503:
        headers["Retry-After"] = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": headers,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
    }


def _correlation_parameter() -> Json:
    return {
        "name": correlation.HEADER,
        "in": "header",
        "required": False,
        "description": f"Under which the request is followed; {CORRELATION_PATTERN}. Another value is replaced.",
        "schema": {"type": "string"},
        "example": EXAMPLES["correlationId"],
    }


def _correlation_header() -> Json:
    return {
        "description": "The caller's, or a new one.",
        "required": True,
        "schema": {"type": "string", "pattern": CORRELATION_PATTERN},
    }
