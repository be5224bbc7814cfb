"""Topics: there and back, and nothing else."""

from __future__ import annotations

import pytest

from reference.core.errors import InputError
from reference.protocol import topics
from reference.protocol.topics import Kind, Topic


@pytest.mark.parametrize("kind", list(Kind))
def test_there_and_back(kind: Kind) -> None:
    text = topics.topic("acme", "press-7", kind)
    assert text == f"tenants/acme/clients/press-7/{kind.value}"
    assert topics.parse_topic(text) == Topic("acme", "press-7", kind)


def test_each_kind_has_its_function() -> None:
    made = [f("t", "c") for f in (topics.update, topics.cancel, topics.replies, topics.birth, topics.status)]
    assert [topics.parse_topic(text).kind for text in made] == list(Kind)


def test_subscriptions_cover_every_kind_once() -> None:
    device = {topics.parse_topic(text).kind for text in topics.device_subscriptions("t", "c")}
    service = {Kind(text.removeprefix("tenants/+/clients/+/")) for text in topics.service_subscriptions()}
    assert device | service == set(Kind)
    assert not device & service


@pytest.mark.parametrize(
    "tenant", ["", "a.b", "a/b", "+", "#", "$SYS", "a\n", "a" * 28, "é", " a", "-a", "A", "a_b"]
)
def test_a_tenant_that_cannot_be_one(tenant: str) -> None:
    with pytest.raises(InputError, match="tenant id"):
        topics.birth(tenant, "c")


@pytest.mark.parametrize(
    "client", ["", "a/b", "+", "#", "a\n", "a" * 37, "é", ".a", "a b", "a\0", "a.b", "Press"]
)
def test_a_client_that_cannot_be_one(client: str) -> None:
    with pytest.raises(InputError, match="client id"):
        topics.birth("t", client)


def test_the_longest_ids_fit_a_common_name() -> None:
    topics.birth("t" * 27, "c" * 36)
    assert len(f"{'t' * 27}.{'c' * 36}") == 64


@pytest.mark.parametrize(
    "text",
    ["", "tenants", "tenants/t/clients/c", "tenants/t/clients/c/", "tenants/t/clients/c/commands", "x/t/clients/c/birth",
     "tenants/t/x/c/birth", "tenants/t/clients/c/birth/more", "tenants/a.b/clients/c/birth", "tenants/+/clients/+/birth",
     "tenants/t/clients/c/BIRTH", "/tenants/t/clients/c/birth"],
)  # fmt: skip
def test_a_topic_that_is_none_of_ours(text: str) -> None:
    with pytest.raises(InputError, match="not a topic"):
        topics.parse_topic(text)
