"""What every refusal looks like."""

from __future__ import annotations

from typing import Any

import httpx


def problem(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """The problem that an answer is; and that it is one by the rules (RFC 9457)."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["reason"] == reason
    assert body["type"] == f"urn:blackstart:problem:{reason}"
    assert all(isinstance(body[name], str) and body[name] for name in ("title", "detail", "instance"))
    assert body["correlationId"] == answer.headers["x-correlation-id"]
    assert "Traceback" not in answer.text
    return body
