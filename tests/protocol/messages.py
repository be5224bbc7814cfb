"""Messages for tests, and strategies that make any."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st
from pydantic import BaseModel

from reference.core.errors import Reason
from reference.core.job import JobStatus
from reference.core.model import Outcome, Phase
from reference.protocol.models import (
    MAX_TRIAL_PART_MS,
    Acknowledgement,
    Birth,
    BirthAnswer,
    CancelCommand,
    HealthSpec,
    ImageSpec,
    ReasonSpec,
    Reply,
    StatusMessage,
    UpdateCommand,
)

_M = TypeVar("_M", bound=BaseModel)


def _make(model: type[_M], **fields: st.SearchStrategy[object]) -> st.SearchStrategy[_M]:
    return st.fixed_dictionaries(fields).map(model.model_validate)


DIGEST = "sha256:" + "ab" * 32

tenants = st.from_regex(r"[a-z0-9][a-z0-9-]{0,26}", fullmatch=True)
clients = st.from_regex(r"[a-z0-9][a-z0-9-]{0,35}", fullmatch=True)
words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
counts = st.integers(0, 2**53 - 1)
generations = st.integers(1, 2**53 - 1)
digests = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
images = _make(
    ImageSpec,
    repository=st.sampled_from(["localhost:5000/opc", "r.example/a/b-c"]),
    digest=digests,
    version=words,
)
parts = st.integers(0, MAX_TRIAL_PART_MS)
healths = _make(
    HealthSpec, probe=st.just("/healthz"), start_period_ms=parts, window_ms=parts, stable_for_ms=parts
)
updates = _make(
    UpdateCommand,
    tenant_id=tenants,
    client_id=clients,
    job_id=words,
    generation=generations,
    issued_at=counts,
    expires_at=counts,
    image=images,
    health=healths,
)
cancels = _make(
    CancelCommand,
    tenant_id=tenants,
    client_id=clients,
    job_id=words,
    generation=generations,
    issued_at=counts,
)
_head = {"tenant_id": tenants, "client_id": clients}
replies = st.one_of(
    _make(
        Reply,
        **_head,
        birth=_make(BirthAnswer, nonce=words, journal_epoch=words, floor=counts),
        acknowledgement=st.none(),
    ),
    _make(
        Reply,
        **_head,
        birth=st.none(),
        acknowledgement=_make(
            Acknowledgement, journal_epoch=words, job_id=words, generation=generations, sequence=counts
        ),
    ),
)
births = _make(
    Birth,
    nonce=words,
    journal_epoch=words,
    generation=st.none() | counts,
    running_digest=st.none() | digests,
    running_version=st.none() | words,
    open_job_id=st.none() | words,
    agent_version=words,
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200)
statuses = _make(
    StatusMessage,
    job_id=words,
    generation=generations,
    journal_epoch=words,
    sequence=counts,
    status=st.sampled_from(JobStatus),
    phase=st.sampled_from(Phase),
    outcome=st.none() | st.sampled_from(Outcome),
    rolled_back=st.booleans(),
    reason=st.none() | _make(ReasonSpec, code=st.sampled_from([r.value for r in Reason]), message=texts),
    running_digest=st.none() | digests,
    running_version=st.none() | words,
    downtime_ms=st.none() | counts,
    at=counts,
)


def update(tenant: str = "acme", client: str = "press-1", generation: int = 3) -> UpdateCommand:
    """A command that is like any other."""
    image = ImageSpec(repository="localhost:5000/opc", digest=DIGEST, version="2.1.0")
    return UpdateCommand(
        tenant_id=tenant,
        client_id=client,
        job_id="job-1",
        generation=generation,
        issued_at=1,
        expires_at=2,
        image=image,
    )
