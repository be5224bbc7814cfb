"""An MQTT-aware proxy of ours: packet by packet, over TLS, with Toxiproxy's API beside it.

    device -> MqttWay (one listener a client) -> broker

It drops, doubles, delays and reorders packets, not bytes; shows what passes (tap); lets one stand still (gate); puts
packets of its own on the wire; and all that is drawn comes from seeds.
"""

from chaos.proxies.mqtt import packet_toxics as packet_toxics
from chaos.proxies.mqtt.packets import Packet, PacketType, Stream
from chaos.proxies.mqtt.proxy import MqttProxy
from chaos.proxies.mqtt.session import Injected, Session
from chaos.proxies.mqtt.tls import ProxyAbsentError, server_files
from chaos.proxies.mqtt.toxics import Toxic, ToxicError, ToxicOrder
from chaos.proxies.mqtt.way import Counters, Gate, MqttWay, Seen

__all__ = [
    "Counters", "Gate", "Injected", "MqttProxy", "MqttWay", "Packet", "PacketType", "ProxyAbsentError", "Seen", "Session", "Stream",
    "Toxic", "ToxicError", "ToxicOrder", "server_files",
]  # fmt: skip
