"""The command line's way to the API: where it is, who asks, and what its problems mean here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reference.core.errors import BlackstartError, InputError, Reason, ServiceError

if TYPE_CHECKING:
    import ssl

    import httpx

DEFAULT_DATA = Path(".blackstart")
CA = "BLACKSTART_CA"
"""Variable with a file of the authorities that the service's certificate must come from."""
TIMEOUT_S = 10.0
PAGE = 1000
"""The most items that the API gives at once."""
Query = Mapping[str, str | list[str] | None]


def address_file(data: Path) -> Path:
    """Where `blackstart up` writes how it is reached."""
    return data / "up.json"


class Api:
    """A session with the service."""

    def __init__(self, url: str | None, token: str | None, data: Path) -> None:
        import httpx

        found = _of_up(data) if url is None or token is None else {}
        self.url = url or os.environ.get("BLACKSTART_URL") or found.get("url")
        token = token or os.environ.get("BLACKSTART_TOKEN") or found.get("token")
        if not self.url or not token:
            raise InputError(
                "no service to talk to",
                todo="Run `blackstart up` in this folder, or give --url and --token (BLACKSTART_URL, BLACKSTART_TOKEN).",
            )
        if not token.isascii() or not token.isprintable():
            raise InputError("not a token: it holds what no header may", where="--token")
        headers = {"Authorization": f"Bearer {token}"}
        try:
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False, verify=_trusted()
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise InputError(f"not an address: {error}", where="--url") from None

    def get(self, path: str, **query: str) -> dict[str, object]:
        """GET; raises BlackstartError with the problem's reason."""
        return self._ask("GET", path, params=query)

    def pages(self, path: str, limit: int, query: Query) -> dict[str, object]:
        """The first `limit` items of a list, from as many pages as that takes; raises BlackstartError."""
        items: list[object] = []
        asked = {name: value for name, value in query.items() if value}
        while True:
            asked["limit"] = str(min(limit - len(items), PAGE))
            page = self._ask("GET", path, params=asked)
            found = page.get("items")
            items += found if isinstance(found, list) else []
            cursor = page.get("nextCursor")
            if not isinstance(cursor, str) or len(items) >= limit:
                return {"items": items, "nextCursor": cursor}
            asked["cursor"] = cursor

    def post(self, path: str, body: object = None) -> dict[str, object]:
        """POST; raises BlackstartError with the problem's reason."""
        return self._ask("POST", path, json=body)

    def order(self, path: str, body: object, supersede: bool = False) -> dict[str, object]:
        """POST what must not be done twice: one that gets no answer is sent again, once, with the same key."""
        import uuid

        headers = {"Idempotency-Key": str(uuid.uuid4())}
        params = {"supersede": "true"} if supersede else None
        try:
            return self._ask("POST", path, params=params, json=body, headers=headers)
        except ServiceError:
            return self._ask("POST", path, params=params, json=body, headers=headers)

    def events(self, after: int | None, *, follow: bool) -> Iterator[object]:
        """What has happened since, and with `follow` what happens; raises BlackstartError."""
        query: dict[str, str] = {} if after is None else {"after": str(after)}
        while True:
            if follow:
                query["waitMs"] = str(int(TIMEOUT_S * 500))
            page = self.get("/api/v1/events", **query)
            items = page.get("items")
            yield from items if isinstance(items, list) else []
            if not follow and not items:
                return
            query["after"] = str(page.get("next"))

    def _ask(
        self,
        method: str,
        path: str,
        params: object = None,
        json: object = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, object]:
        import httpx

        try:
            answer = self._http.request(method, path, params=params, json=json, headers=headers)  # type: ignore[arg-type]
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise InputError(
                f"not an address: {error}", where="--url", todo="Give http://HOST:PORT."
            ) from None
        except httpx.HTTPError as error:
            todo = "Is `blackstart up` running?"
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                todo = f"{CA} names a file of the authorities to trust (PEM)."
            raise ServiceError(f"does not answer: {error}", where=str(self.url), todo=todo) from None
        return _read(answer)


def _trusted() -> ssl.SSLContext | bool:
    """What the service's certificate is checked against. Raises InputError."""
    import ssl

    path = os.environ.get(CA)
    if not path:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        raise InputError(f"no certificates in PEM: {error}", where=f"{CA}={path}") from None


def _read(answer: httpx.Response) -> dict[str, object]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ServiceError(
            f"answered {answer.status_code} with something that is not ours", where=str(answer.url)
        )
    if answer.is_success:
        return body
    detail = str(body.get("detail") or body.get("title") or answer.reason_phrase)
    reason = _reason(body.get("reason"))
    if body.get("reason"):
        detail = f"{detail} [{body['reason']}]"
    if answer.status_code in (400, 404, 413, 422):
        raise InputError(detail, reason=reason)
    raise BlackstartError(detail, reason=reason)


def _reason(code: object) -> Reason:
    try:
        return Reason(str(code))
    except ValueError:
        return Reason.INVALID_INPUT


def _of_up(data: Path) -> dict[str, str]:
    try:
        found = json.loads(address_file(data).read_text())
        return {"url": str(found["url"]), "token": str(found["token"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
