"""What must not be collected right now: the agreement between requests and the garbage collector.

A request pins what it is about to look at or refer to, and only then looks. The collector removes a thing under the
same lock, and only if nobody pinned it since the collector began to look: so either the request finds it gone and
says so, or the collector leaves it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

Key = tuple[str, str]
"""Repository and name of a mark in it; for content itself the repository is empty."""


class Pins:
    """Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Counter[Key] = Counter()
        self._touched: set[Key] | None = None

    @contextmanager
    def hold(self, keys: Iterable[Key]) -> Iterator[None]:
        """While this is open, and for the rest of a collection that runs, none of `keys` is removed."""
        wanted = list(keys)
        with self._lock:
            self._held.update(wanted)
            if self._touched is not None:
                self._touched.update(wanted)
        try:
            yield
        finally:
            with self._lock:
                for key in wanted:
                    self._held[key] -= 1
                    if self._held[key] <= 0:
                        del self._held[key]

    @contextmanager
    def collection(self) -> Iterator[None]:
        """One collection, from its first look to its last removal."""
        with self._lock:
            assert self._touched is None, "one collection at a time"
            self._touched = set(self._held)
        try:
            yield
        finally:
            with self._lock:
                self._touched = None

    def remove(self, key: Key, unlink: Callable[[], object]) -> bool:
        """Call `unlink` unless someone pinned `key` since the collection began. Answers whether it did."""
        with self._lock:
            assert self._touched is not None, "only a collection removes"
            if key in self._touched:
                return False
            unlink()
            return True
