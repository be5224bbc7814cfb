"""Messages: what is written is read, what is wrong is named, what is new is tolerated."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.core import model as core
from reference.core.errors import CommandError, Reason
from reference.core.job import JobStatus, Report
from reference.core.limits import DEFAULT_SERVICE_LIMITS
from reference.core.model import Handover, Outcome, Phase, Policy
from reference.protocol import models
from reference.protocol.models import (
    Birth,
    CancelCommand,
    Reply,
    StatusMessage,
    UpdateCommand,
)
from tests.protocol import messages

Message = UpdateCommand | CancelCommand | Reply | Birth | StatusMessage


@given(st.one_of(messages.updates, messages.cancels, messages.replies, messages.births, messages.statuses))
def test_what_is_written_is_read(message: Message) -> None:
    assert models.parse(type(message), message.to_bytes()) == message


@given(messages.updates)
def test_a_command_goes_through_core_and_back(message: UpdateCommand) -> None:
    again = UpdateCommand.from_core(
        message.to_core(), message.tenant_id, message.client_id, issued_at_ms=message.issued_at
    )
    assert again == message


@given(
    st.builds(
        Report,
        job_id=messages.words,
        generation=messages.generations,
        sequence=messages.counts,
        status=st.sampled_from(JobStatus),
        phase=st.sampled_from(Phase),
        outcome=st.none() | st.sampled_from(Outcome),
        reason=st.sampled_from(Reason),
        message=messages.texts,
        downtime_ms=st.none() | messages.counts,
    )
)
def test_a_report_goes_over_the_wire_and_back(report: Report) -> None:
    running = core.Image("localhost/x", messages.DIGEST, "1.0")
    message = StatusMessage.from_core(report, "epoch", running, at_ms=7)
    assert models.parse_status(message.to_bytes()).to_core() == report
    assert message.rolled_back is (report.outcome is Outcome.ROLLED_BACK)
    assert message.running_digest == messages.DIGEST


def _changed(**fields: object) -> bytes:
    return json.dumps(json.loads(messages.update().to_bytes()) | fields).encode()


def test_names_on_the_wire_are_camel_case() -> None:
    names = set(json.loads(messages.update().to_bytes()))
    assert {
        "schemaVersion",
        "tenantId",
        "clientId",
        "jobId",
        "issuedAt",
        "expiresAt",
        "image",
        "health",
    } <= names
    assert json.loads(messages.update().to_bytes())["health"]["startPeriodMs"] == 10_000


def test_the_longest_trial_ends_before_the_service_gives_it_up() -> None:
    longest = dict.fromkeys(("startPeriodMs", "windowMs", "stableForMs"), models.MAX_TRIAL_PART_MS)
    health = models.parse_update(_changed(health=longest)).to_core().health
    whole = health.start_period_ms + health.window_ms + health.stable_for_ms
    assert whole < DEFAULT_SERVICE_LIMITS.verifying_deadline_ms


def test_unknown_fields_are_tolerated() -> None:
    assert models.parse_update(_changed(novelty={"a": 1}, policy={"novelty": True})) == messages.update()


def test_policy_and_correlation_reach_core_and_come_back() -> None:
    policy = {"snapshot": True, "probationMs": 86_400_000, "lockWaitMs": 5_000, "handover": "overlap"}
    parsed = models.parse_update(_changed(policy=policy, correlationId="req-1.a_B"))
    command = parsed.to_core()
    assert command.policy == Policy(True, 86_400_000, 5_000, Handover.OVERLAP)
    assert command.correlation_id == "req-1.a_B"
    again = models.UpdateCommand.from_core(command, parsed.tenant_id, parsed.client_id, parsed.issued_at)
    assert again == parsed


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 65, "a\nb", 3])
def test_a_correlation_that_would_break_a_log_line_is_refused(wrong: object) -> None:
    with pytest.raises(CommandError, match=r"pattern|string"):
        models.parse_update(_changed(correlationId=wrong))


def test_an_unknown_version_is_refused_as_such() -> None:
    with pytest.raises(CommandError, match="schema version 2") as caught:
        models.parse_update(_changed(schemaVersion=2))
    assert caught.value.reason is Reason.UNSUPPORTED_SCHEMA


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"schemaVersion": None}, "schemaVersion"),
        ({"schemaVersion": True}, "schemaVersion"),
        ({"generation": 0}, "generation"),
        ({"generation": "1"}, "generation"),
        ({"generation": 1.5}, "generation"),
        ({"generation": 2**53}, "generation"),
        ({"generation": 10**400}, "generation"),
        ({"generation": True}, "generation"),
        ({"expiresAt": -1}, "expiresAt"),
        ({"jobId": ""}, "jobId"),
        ({"jobId": "a" * 65}, "jobId"),
        ({"jobId": "a\n"}, "jobId"),
        ({"tenantId": "a.b"}, "tenantId"),
        ({"clientId": "a/b"}, "clientId"),
        ({"type": "cancel"}, "type"),
        ({"image": None}, "image"),
        ({"image": {"repository": "r/x", "digest": "sha256:12", "version": "1"}}, "image.digest"),
        ({"image": {"repository": "r/x", "digest": messages.DIGEST.upper(), "version": "1"}}, "image.digest"),
        ({"image": {"repository": "r", "digest": messages.DIGEST, "version": "1"}}, "image.repository"),
        ({"image": {"repository": "r/../x", "digest": messages.DIGEST, "version": "1"}}, "image.repository"),
        ({"image": {"repository": "r/x", "digest": messages.DIGEST, "version": ""}}, "image.version"),
        ({"health": {"probe": "healthz"}}, "health.probe"),
        ({"health": {"windowMs": -1}}, "health.windowMs"),
        ({"health": {"startPeriodMs": 480_001}}, "health.startPeriodMs"),
        ({"health": {"windowMs": 480_001}}, "health.windowMs"),
        ({"health": {"stableForMs": 480_001}}, "health.stableForMs"),
        ({"policy": 3}, "policy"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], where: str) -> None:
    with pytest.raises(CommandError) as caught:
        models.parse_update(_changed(**fields))
    assert caught.value.reason is Reason.MALFORMED
    assert caught.value.where == f"UpdateCommand.{where}"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"{}", b"[" * 50_000, b'{"a":' * 10_000, b"NaN",
     b'{"schemaVersion": NaN}', b'{"schemaVersion":1,"x":"\\ud800"}', b" " * 70_000],
)  # fmt: skip
def test_no_json_of_ours(data: bytes) -> None:
    for read in (
        models.parse_update,
        models.parse_cancel,
        models.parse_reply,
        models.parse_birth,
        models.parse_status,
    ):
        with pytest.raises(CommandError) as caught:
            read(data)
        assert caught.value.reason is Reason.MALFORMED


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(CommandError):
        models.parse_birth(data)


@pytest.mark.parametrize("both", [True, False])
def test_a_reply_is_one_thing(both: bool) -> None:
    answer = {"nonce": "n", "journalEpoch": "e", "floor": 0}
    told = {"journalEpoch": "e", "jobId": "j", "generation": 1, "sequence": 1}
    body = {"schemaVersion": 1, "tenantId": "t", "clientId": "c", "type": "reply"}
    body |= {"birth": answer, "acknowledgement": told} if both else {}
    with pytest.raises(CommandError, match="exactly one"):
        models.parse_reply(json.dumps(body).encode())


def test_a_reason_that_is_not_known_here_survives_in_the_message() -> None:
    body = {
        "schemaVersion": 1, "jobId": "j", "generation": 1, "journalEpoch": "e", "sequence": 1, "status": "FAILED",
        "phase": "idle", "at": 1, "reason": {"code": "moon_phase", "message": "full\0"},
    }  # fmt: skip
    report = models.parse_status(json.dumps(body).encode()).to_core()
    assert report.reason is None
    assert report.message == "moon_phase: full\ufffd"


def test_long_messages_for_people_are_cut() -> None:
    report = Report("j", 1, 1, JobStatus.FAILED, Phase.IDLE, Outcome.FAILED, Reason.IMAGE_INVALID, "x" * 5000)
    sent = StatusMessage.from_core(report, "e", None, 1)
    assert sent.reason is not None
    assert len(sent.reason.message) == models.MAX_TEXT
