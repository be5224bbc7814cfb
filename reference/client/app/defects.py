"""What test images do wrong, as their defect.json says: {"defect": NAME, "after_ms": N}. Real images have no such file."""

import json
import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    Leave = Callable[[int, str], NoReturn]


class Defect:
    """In the place of main's `Sound`. `leave` ends the process with a code and a message."""

    def __init__(self, folder: str, leave: "Leave") -> None:
        self.leave = leave
        try:
            with open(folder + "/defect.json", "rb") as file:  # noqa: PTH123
                found = json.loads(file.read())
            self.name, self.after_ms = str(found["defect"]), int(found.get("after_ms", 0))
        except (OSError, ValueError, KeyError, TypeError) as error:
            leave(1, f"defect.json: {error}")
        if self.name == "crash-on-start":
            leave(1, "this image is made to crash on start")
        if self.name == "slow-start":
            time.sleep(self.after_ms / 1000)
        if self.name == "ignores-sigterm":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def step(self, age_ms: float) -> None:
        if self.name == "dies-in-window" and age_ms > self.after_ms:
            self.leave(1, f"this image is made to die after {self.after_ms} ms")

    def migrate(self, folder: str) -> None:
        """What a careless new version does: every sample in a form of its own, and the old file gone."""
        if self.name != "bad-migration":
            return
        with open(folder + "/samples.log", "rb") as old, open(folder + "/samples.v2", "wb") as new:  # noqa: PTH123
            for line in old:
                new.write(b"2|" + line)
        os.unlink(folder + "/samples.log")  # noqa: PTH108
        with open(folder + "/format", "wb") as file:  # noqa: PTH123
            file.write(b"2\n")
        self.leave(1, "this image is made to migrate its volume and die")
