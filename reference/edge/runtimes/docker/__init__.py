"""The Docker runtime: `runtime.py` is the port; what it stands on lies beside it."""

from reference.edge.runtimes.docker.adoption import Adoption
from reference.edge.runtimes.docker.runtime import DockerRuntime

__all__ = ["Adoption", "DockerRuntime"]
