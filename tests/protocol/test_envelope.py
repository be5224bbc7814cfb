"""Envelopes: only what was signed for this device comes out, whatever is done to the bytes."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope

from reference.core.errors import CommandError, InputError, Reason
from reference.protocol import envelope
from reference.protocol.envelope import CommandRefusedError, open_envelope, sign
from reference.protocol.models import Acknowledgement, CancelCommand, Reply, UpdateCommand
from tests.protocol import messages

KEY = envelope.generate_key()
OTHER_KEY = envelope.generate_key()
KEYS = envelope.key_ring(envelope.public_key(KEY))
MESSAGE = messages.update()
SIGNED = sign(MESSAGE, KEY)


def _open(data: bytes, tenant: str = "acme", client: str = "press-1") -> UpdateCommand:
    return open_envelope(data, KEYS, tenant, client, UpdateCommand)


def _signed_payload(payload: bytes, payload_type: str = envelope.PAYLOAD_TYPE) -> bytes:
    made = Envelope(payload, payload_type, {})
    made.sign(KEY)
    return json.dumps(made.to_dict()).encode()


def _payload(**fields: object) -> bytes:
    return json.dumps(json.loads(MESSAGE.to_bytes()) | fields).encode()


@given(st.one_of(messages.updates, messages.cancels, messages.replies))
@settings(max_examples=50)
def test_what_is_signed_is_opened(message: UpdateCommand | CancelCommand | Reply) -> None:
    opened = open_envelope(sign(message, KEY), KEYS, message.tenant_id, message.client_id, type(message))
    assert opened == message


@pytest.mark.parametrize("position", range(len(SIGNED)))
def test_no_flipped_byte_makes_another_message(position: int) -> None:
    for bit in (0x01, 0x04, 0x20, 0x80):
        data = bytearray(SIGNED)
        data[position] ^= bit
        try:
            opened = _open(bytes(data))
        except CommandError:
            continue
        # Base64 has bits that mean nothing: what still verifies must be the same message.
        assert opened == MESSAGE


@given(st.data())
def test_no_cut_or_splice_makes_another_message(data: st.DataObject) -> None:
    at, length = data.draw(st.integers(0, len(SIGNED))), data.draw(st.integers(0, 40))
    spliced = SIGNED[:at] + data.draw(st.binary(max_size=40)) + SIGNED[at + length :]
    with contextlib.suppress(CommandError):
        assert _open(spliced) == MESSAGE


@given(st.binary(max_size=300))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(CommandError):
        _open(data)


def test_another_key_is_refused() -> None:
    with pytest.raises(CommandError) as caught:
        _open(sign(MESSAGE, OTHER_KEY))
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_another_key_under_the_right_name_is_refused() -> None:
    forged = json.loads(sign(MESSAGE, OTHER_KEY))
    forged["signatures"][0]["keyid"] = envelope.public_key(KEY).keyid
    with pytest.raises(CommandError) as caught:
        _open(json.dumps(forged).encode())
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_the_signature_comes_before_everything_else() -> None:
    forged = json.loads(SIGNED)
    forged["payload"] = base64.b64encode(b"this is no JSON").decode()
    with pytest.raises(CommandError) as caught:
        _open(json.dumps(forged).encode())
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_two_keys_while_one_replaces_the_other() -> None:
    ring = envelope.key_ring(envelope.public_key(KEY), envelope.public_key(OTHER_KEY))
    for key in (KEY, OTHER_KEY):
        assert open_envelope(sign(MESSAGE, key), ring, "acme", "press-1", UpdateCommand) == MESSAGE


@pytest.mark.parametrize(
    ("tenant", "client"), [("acme", "press-2"), ("other", "press-1"), ("acme.press", "1")]
)
def test_another_device_refuses(tenant: str, client: str) -> None:
    with pytest.raises(CommandError) as caught:
        _open(SIGNED, tenant, client)
    assert caught.value.reason is Reason.WRONG_DEVICE
    assert not isinstance(caught.value, CommandRefusedError)


def test_no_message_passes_for_another_type() -> None:
    told = Acknowledgement(journal_epoch="e", job_id="j", generation=1, sequence=1)
    reply = sign(Reply(tenant_id="acme", client_id="press-1", acknowledgement=told), KEY)
    cancel = sign(
        CancelCommand(tenant_id="acme", client_id="press-1", job_id="j", generation=1, issued_at=1), KEY
    )
    for data in (reply, cancel):
        with pytest.raises(CommandError, match="type") as caught:
            _open(data)
        assert caught.value.reason is Reason.MALFORMED
    with pytest.raises(CommandError, match="type"):
        open_envelope(SIGNED, KEYS, "acme", "press-1", CancelCommand)


def test_another_payload_type_is_refused() -> None:
    with pytest.raises(CommandError, match="another type"):
        _open(_signed_payload(MESSAGE.to_bytes(), "application/vnd.in-toto+json"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"schemaVersion": 2}, Reason.UNSUPPORTED_SCHEMA), ({"image": {}}, Reason.MALFORMED), ({"type": "x"}, Reason.MALFORMED)],
)  # fmt: skip
def test_a_refusal_names_the_job_so_that_the_sender_can_be_told(
    fields: dict[str, object], reason: Reason
) -> None:
    with pytest.raises(CommandRefusedError) as caught:
        _open(_signed_payload(_payload(**fields)))
    assert (caught.value.reason, caught.value.job_id, caught.value.generation) == (reason, "job-1", 3)


@pytest.mark.parametrize(
    "payload", [b"no json", b"[]", _payload(jobId=5), _payload(generation=0), _payload(clientId=None)]
)
def test_a_signed_message_without_a_name_is_only_refused(payload: bytes) -> None:
    with pytest.raises(CommandError) as caught:
        _open(_signed_payload(payload))
    assert not isinstance(caught.value, CommandRefusedError)


def test_too_large_is_refused() -> None:
    with pytest.raises(CommandError, match="too many"):
        _open(SIGNED + b" " * 65_536)


@pytest.mark.parametrize(
    "change",
    [{"signatures": []}, {"signatures": [{"keyid": "a", "sig": ""}] * 2}, {"payload": "%%%"}, {"payload": 1},
     {"signatures": [{"keyid": "a"}]}, {"signatures": None}, {"payloadType": None}, {"payload": "é"}],
)  # fmt: skip
def test_no_envelope(change: dict[str, object]) -> None:
    with pytest.raises(CommandError):
        _open(json.dumps(json.loads(SIGNED) | change).encode())


def test_keys_in_files(tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    envelope.write_private_key(KEY, private)
    envelope.write_public_key(KEY, public)
    assert private.stat().st_mode & 0o777 == 0o600
    ring = envelope.key_ring(envelope.load_public_key(public))
    signed = sign(MESSAGE, envelope.load_private_key(private))
    assert open_envelope(signed, ring, "acme", "press-1", UpdateCommand) == MESSAGE
    with pytest.raises(InputError, match="exists"):
        envelope.write_private_key(OTHER_KEY, private)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pem", "key.pub"]


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    missing, noise, ec, ec_public = (tmp_path / name for name in ("missing", "noise", "ec", "ec.pub"))
    noise.write_bytes(b"\x00noise")
    other = generate_private_key(SECP256R1())
    ec.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    ec_public.write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for path in (missing, noise, ec, ec_public, tmp_path):
        for load in (envelope.load_private_key, envelope.load_public_key):
            with pytest.raises(InputError) as caught:
                load(path)
            assert caught.value.where == str(path)
            assert caught.value.todo
