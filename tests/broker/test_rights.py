from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.broker.rights import may_publish, may_receive, may_subscribe
from reference.pki import Device, Service

D1 = Device("acme", "d1")
MINE = "tenants/acme/clients/d1"


@pytest.mark.parametrize("leaf", ["birth", "status"])
def test_from_device_to_service(leaf: str) -> None:
    topic = f"{MINE}/{leaf}"
    assert may_publish(D1, topic)
    assert may_receive(Service(), topic)
    assert may_subscribe(Service(), f"tenants/+/clients/+/{leaf}")
    assert not may_publish(Service(), topic)
    assert not may_receive(D1, topic)
    assert not may_subscribe(D1, topic)


@pytest.mark.parametrize("leaf", ["commands/update", "commands/cancel", "replies"])
def test_from_service_to_device(leaf: str) -> None:
    topic = f"{MINE}/{leaf}"
    assert may_publish(Service(), topic)
    assert may_receive(D1, topic)
    assert may_subscribe(D1, topic)
    assert not may_publish(D1, topic)
    assert not may_receive(Service(), topic)
    assert not may_subscribe(Service(), topic)


def test_a_device_may_take_all_of_its_commands_at_once() -> None:
    assert may_subscribe(D1, f"{MINE}/commands/#")


@pytest.mark.parametrize(
    "other",
    [
        "tenants/acme/clients/d2",
        "tenants/other/clients/d1",
        "tenants/acme/clients/+",
        "tenants/+/clients/d1",
        "#",
    ],
)
def test_a_device_has_no_part_in_another_s_topics(other: str) -> None:
    for leaf in ("birth", "status", "commands/update", "commands/#", "replies", "#"):
        topic = f"{other}/{leaf}"
        assert not may_publish(D1, topic)
        assert not may_receive(D1, topic)
        assert not may_subscribe(D1, topic)


@pytest.mark.parametrize(
    "filter_", ["#", "+/#", "tenants/#", f"{MINE}/#", f"{MINE}/+", f"{MINE}/commands/+", "$SYS/#", MINE, ""]
)
def test_wide_filters_are_nobody_s(filter_: str) -> None:
    assert not may_subscribe(D1, filter_)
    assert not may_subscribe(Service(), filter_)


_SEGMENT = st.sampled_from(
    [
        "tenants",
        "clients",
        "acme",
        "other",
        "d1",
        "d2",
        "birth",
        "status",
        "commands",
        "update",
        "+",
        "#",
        "",
        "$SYS",
    ]
)


@given(st.lists(_SEGMENT, max_size=7).map("/".join))
def test_whatever_a_device_may_touch_is_under_its_own_name(topic: str) -> None:
    if may_publish(D1, topic) or may_receive(D1, topic) or may_subscribe(D1, topic):
        assert topic.startswith(f"{MINE}/")
    assert not (may_publish(D1, topic) and may_receive(D1, topic))
