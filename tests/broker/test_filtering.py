from __future__ import annotations

from pathlib import Path

import pytest
from amqtt.contexts import Action
from amqtt.session import Session

from reference.broker.server import GuardedBroker, bind
from reference.pki import DevelopmentCA, Device

TOPIC = "tenants/acme/clients/d1/commands/update"


async def test_rights_are_judged_without_a_pause(tmp_path: Path) -> None:
    """amqtt awaits this inside a loop over the subscriptions: a pause there lets a SUBSCRIBE break the loop."""
    files = DevelopmentCA.open_or_create(tmp_path).issue_server("broker")
    with bind("127.0.0.1", 0) as listening:
        broker = GuardedBroker(listening, files.ca, files.cert, files.key)
        session = Session()
        for peer, expected in ((None, False), (Device("acme", "d1"), True)):
            session.attributes["blackstart.peer"] = peer
            with pytest.raises(StopIteration) as done:
                broker._topic_filtering(session, TOPIC, Action.RECEIVE).send(None)
            assert done.value.value is expected
