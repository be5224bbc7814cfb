"""Tokens as identity providers sign them, and as those do who are none."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from reference.service.auth import AUDIENCE, VerificationKey

ISSUER = "https://id.example"
RSA = generate_rsa(65537, 2048)
EC = generate_ec(SECP256R1())


@dataclass
class Signer:
    """An issuer's key under a name."""

    key_id: str
    key: RSAPrivateKey | EllipticCurvePrivateKey
    issuer: str = ISSUER

    @property
    def algorithm(self) -> str:
        return "RS256" if isinstance(self.key, RSAPrivateKey) else "ES256"

    def jwk(self, **more: object) -> dict[str, object]:
        """Its public half, as a key set publishes it."""
        made = RSAAlgorithm if isinstance(self.key, RSAPrivateKey) else ECAlgorithm
        public = json.loads(made.to_jwk(self.key.public_key()))  # type: ignore[arg-type]
        return {k: v for k, v in public.items() if k != "key_ops"} | {"kid": self.key_id} | more

    def claims(self, **changed: Any) -> dict[str, object]:
        """Good ones; None takes one away."""
        now = int(time.time())
        good: dict[str, object] = {
            "iss": self.issuer, "aud": AUDIENCE, "iat": now, "exp": now + 600, "sub": "somebody",
            "tenant": "acme", "role": "Administrator",
        }  # fmt: skip
        return {k: v for k, v in (good | changed).items() if v is not None}

    def token(self, header: dict[str, object] | None = None, **changed: Any) -> str:
        head = {k: v for k, v in ({"kid": self.key_id} | (header or {})).items() if v is not None}
        return jwt.encode(self.claims(**changed), self.key, self.algorithm, head)

    def pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def unsigned(claims: dict[str, object], header: dict[str, object], signature: bytes = b"") -> str:
    """A token that nobody's library would make."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@dataclass
class Keys:
    """A key source in memory."""

    issuer: str = ISSUER
    found: dict[str, VerificationKey] = field(default_factory=dict)
    asked: int = 0

    async def key(self, key_id: str) -> VerificationKey | None:
        self.asked += 1
        return self.found.get(key_id)


def keys_of(*signers: Signer) -> Keys:
    return Keys(found={s.key_id: VerificationKey(s.key.public_key(), s.algorithm) for s in signers})
