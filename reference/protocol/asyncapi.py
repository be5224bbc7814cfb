"""The description of the wire, as an AsyncAPI 3.0 document made from the messages' models.

`python -m reference.protocol.asyncapi` prints it; docs/asyncapi.json is its committed copy. It is told from the
service: it sends commands, cancels and replies, and receives births and statuses.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from reference.protocol import topics
from reference.protocol.envelope import PAYLOAD_TYPE
from reference.protocol.models import (
    MAX_MESSAGE_BYTES,
    SCHEMA_VERSION,
    Birth,
    CancelCommand,
    Reply,
    StatusMessage,
    UpdateCommand,
)
from reference.protocol.topics import Kind

Json = dict[str, Any]
"""Part of an AsyncAPI document: JSON whose shape AsyncAPI 3.0 defines, nothing of the domain."""

MESSAGES: dict[Kind, type[BaseModel]] = {
    Kind.UPDATE: UpdateCommand,
    Kind.CANCEL: CancelCommand,
    Kind.REPLIES: Reply,
    Kind.BIRTH: Birth,
    Kind.STATUS: StatusMessage,
}
"""What is said on each topic."""

_ABOUT = f"""\
What the Device Management Service and a device's agent say to each other. QoS 1, nothing retained, mutual TLS.

Delivery is settled end to end, by nobody in between: a command is sent again until the device has journaled it or it
expires, a status until the service has acknowledged it. Both sides drop what they have had, by generation and
sequence. What the service says is a DSSE envelope with an Ed25519 signature: the device checks the bytes that it
received, then reads them. What a device says rests on its certificate, whose common name `tenantId.clientId` is its
MQTT client id and the only place where it may speak and listen.

`schemaVersion` is {SCHEMA_VERSION}. Unknown fields are tolerated, unknown versions refused with a status that says so.
Where the broker speaks MQTT 5, expiry, correlation data and content type are set too; the payload alone is enough."""
_SUMMARIES = {
    Kind.UPDATE: "Run this image.",
    Kind.CANCEL: "Give the job up, if it has not switched yet.",
    Kind.REPLIES: "The answer to a birth, or the acknowledgement of a status.",
    Kind.BIRTH: "I am here: what runs, which generation I have seen, and a nonce to be repeated.",
    Kind.STATUS: "What a job has come to.",
}
_BINDING: Json = {"mqtt": {"qos": 1, "retain": False, "bindingVersion": "0.2.0"}}
_REF = "#/components/schemas/{model}"


def document() -> Json:
    """The whole document, the same every time."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Blackstart between service and device",
            "version": str(SCHEMA_VERSION),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": topics.MESSAGE_TYPE,
        "servers": {"broker": _server()},
        "channels": {_key(kind): _channel(kind) for kind in Kind},
        "operations": {_operation_key(kind): _operation(kind) for kind in Kind},
        "components": {
            "schemas": _schemas(),
            "messages": {MESSAGES[kind].__name__: _message(kind) for kind in Kind},
            "parameters": {
                "tenantId": {"description": f"{topics.TENANT_RULE}.", "examples": ["acme"]},
                "clientId": {"description": f"{topics.CLIENT_RULE}.", "examples": ["press-1"]},
            },
            "securitySchemes": {
                "certificate": {
                    "type": "X509",
                    "description": "A client certificate of the fleet's authority; its common name decides the rights.",
                }
            },
        },
    }


def _key(kind: Kind) -> str:
    """`commands/update` as `commandsUpdate`."""
    first, *rest = kind.value.split("/")
    return first + "".join(word.title() for word in rest)


def _operation_key(kind: Kind) -> str:
    return ("send" if kind in topics.TO_DEVICE else "receive") + MESSAGES[kind].__name__


def _server() -> Json:
    return {
        "host": "{host}:{port}",
        "protocol": "secure-mqtt",
        "protocolVersion": "5.0",
        "description": "MQTT 5 or 3.1.1 over mutual TLS.",
        "variables": {
            "host": {"default": "localhost", "description": "Where the broker is."},
            "port": {"default": "8883", "description": "Its port."},
        },
        "security": [{"$ref": "#/components/securitySchemes/certificate"}],
    }


def _channel(kind: Kind) -> Json:
    name = MESSAGES[kind].__name__
    return {
        # Not topics.topic(), which takes ids and no placeholders.
        "address": f"tenants/{{tenantId}}/clients/{{clientId}}/{kind.value}",
        "description": _SUMMARIES[kind],
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "parameters": {one: {"$ref": f"#/components/parameters/{one}"} for one in ("tenantId", "clientId")},
        "servers": [{"$ref": "#/servers/broker"}],
    }


def _operation(kind: Kind) -> Json:
    channel = _key(kind)
    return {
        "action": "send" if kind in topics.TO_DEVICE else "receive",
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": _SUMMARIES[kind],
        "messages": [{"$ref": f"#/channels/{channel}/messages/{MESSAGES[kind].__name__}"}],
        "bindings": _BINDING,
    }


def _message(kind: Kind) -> Json:
    model = MESSAGES[kind]
    signed = kind in topics.TO_DEVICE
    found: Json = {
        "name": model.__name__,
        "title": model.__name__,
        "summary": _SUMMARIES[kind],
        "description": f"At most {MAX_MESSAGE_BYTES} bytes.",
        "contentType": topics.ENVELOPE_TYPE if signed else topics.MESSAGE_TYPE,
        "payload": {"$ref": f"#/components/schemas/{model.__name__}{'Envelope' if signed else ''}"},
    }
    if kind is Kind.STATUS:
        where = "$message.payload#/correlationId"
        found["correlationId"] = {"location": where, "description": "That of the job's command."}
    return found


def _schemas() -> Json:
    _, generated = models_json_schema(
        [(model, "validation") for model in MESSAGES.values()], by_alias=True, ref_template=_REF
    )
    schemas: Json = dict(generated["$defs"])
    for model in MESSAGES.values():
        # Has a default for those who write; whoever reads insists on it.
        schemas[model.__name__]["required"].insert(0, "schemaVersion")
    for kind in topics.TO_DEVICE:
        name = MESSAGES[kind].__name__
        schemas[f"{name}Envelope"] = _envelope(name)
    return {name: schemas[name] for name in sorted(schemas)}


def _envelope(name: str) -> Json:
    """DSSE v1: the signature covers the type and the bytes of the payload, whatever they mean."""
    return {
        "title": f"{name}Envelope",
        "description": f"A {name}, signed (DSSE v1.0.0).",
        "type": "object",
        "required": ["payload", "payloadType", "signatures"],
        "properties": {
            "payload": {
                "type": "string",
                "contentEncoding": "base64",
                "contentMediaType": PAYLOAD_TYPE,
                "contentSchema": {"$ref": _REF.format(model=name)},
            },
            "payloadType": {"const": PAYLOAD_TYPE},
            "signatures": {
                "type": "array",
                "minItems": 1,
                "maxItems": 4,
                "items": {
                    "type": "object",
                    "required": ["keyid", "sig"],
                    "properties": {
                        "keyid": {"type": "string", "maxLength": 128},
                        "sig": {"type": "string", "maxLength": 256, "contentEncoding": "base64"},
                    },
                },
            },
        },
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=1, ensure_ascii=False) + "\n")
