"""`python -m tests.service.forker`: starts the service again and again in a fraction of its usual time.

It has imported all of the service. For each line on standard input, a JSON list of arguments, it forks a process that
is the service from there on, and says `{"pid": N}`; the service's own ready line comes after it. The only part that is
not as in production is the interpreter's start.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from reference.service.__main__ import main


def _be_the_service(arguments: list[str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.set_inheritable(0, False)
    code = 1
    try:
        code = main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


def serve() -> None:
    """Until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not kept
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _be_the_service(json.loads(line))
        sys.stdout.write(json.dumps({"pid": pid}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
