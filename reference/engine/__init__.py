"""An engine of one's own: a dockerd with its own data, socket and bridge, for tests and the demo.

It runs beside an engine that is there already and never touches it: nothing of the host is shared but the kernel. Its
bridge lives in the host's network namespace, so containers on the host's network, published ports and a registry on
127.0.0.1 work as on a device. It writes no iptables rules unless asked (`iptables=True`): two engines in one network
namespace empty each other's chains. Published ports then go through docker-proxy, and containers on a bridge reach
this machine and each other, not the world outside.
"""

from reference.engine.places import Engine
from reference.engine.private import PrivateEngine, missing, why_not

__all__ = ["Engine", "PrivateEngine", "missing", "why_not"]
