"""core decides and world models, and they do nothing else: no clock, no chance, no input or output."""

from __future__ import annotations

import pytest

from tests.architecture.purity import impurities
from tests.architecture.source import ROOT, name, python_files

# Package -> what it may import beside the pure standard library. A later pure package gets its row here. Of history the
# checkers take the events, which are data; who records them has a clock.
PURE = {
    "reference/core": ("reference.core",),
    "reference/world": ("reference.core", "reference.world"),
    "chaos/scenario": ("chaos.scenario", "reference.core", "pydantic", "pydantic_core", "difflib"),
    "chaos/checkers": (
        "chaos.checkers",
        "chaos.scenario",
        "chaos.verdict",
        "chaos.history",
        "chaos.result",
        "chaos.plan",
        "reference.core",
        "pydantic",
    ),
}
FILES = [(path, own) for folder, own in PURE.items() for path in python_files(folder)]


def test_there_is_something_to_check() -> None:
    checked = {name(path) for path, _ in FILES}
    assert {"reference/core/update.py", "reference/core/delivery.py", "reference/core/job.py"} <= checked
    assert {"reference/world/engine.py", "reference/world/disk.py", "reference/world/explore.py"} <= checked
    assert {"chaos/scenario/model.py", "chaos/scenario/sense.py", "chaos/checkers/__init__.py"} <= checked
    for later in ("reference/world", "simulator"):
        assert not (ROOT / later).exists() or later in PURE, f"{later} is pure: give it a row in PURE"


def test_pure() -> None:
    found = [
        f"{name(path)} {what}" for path, own in FILES for what in impurities(path.read_text("utf-8"), own)
    ]
    assert not found, "has to be pure:\n" + "\n".join(found)


IMPURE = [
    "import time",
    "from time import monotonic",
    "import time as t",
    "import datetime",
    "from datetime import datetime",
    "import random",
    "from random import Random",
    "import secrets",
    "import uuid",
    "from uuid import uuid4",
    "import os",
    "from os import urandom",
    "import os.path",
    "import sys",
    "import asyncio",
    "import logging",
    "import socket",
    "import threading",
    "import subprocess",
    "import multiprocessing",
    "import sqlite3",
    "import pathlib",
    "from pathlib import Path",
    "import io",
    "import importlib",
    "import builtins",
    "import concurrent.futures",
    "import collections.abc.time",
    "import pydantic",
    "from pydantic import BaseModel",
    "import reference.edge.agent",
    "from reference.protocol import models",
    "from reference import edge",
    "from . import job",
    "from ..edge import agent",
    "import reference.corestone",
    "def f():\n    import time",
    "if True:\n    from random import random",
    "try:\n    import uuid\nexcept ImportError:\n    pass",
    "open('x')",
    "o = open",
    "print('x')",
    "input()",
    "eval('1')",
    "exec('x = 1')",
    "__import__('time')",
    "compile('1', '', 'eval')",
    "__builtins__['open']('x')",
    "globals()['x'] = 1",
    "hash('x')",
    "id(object())",
    "datetime.now()",
    "datetime.utcnow()",
    "date.today()",
    "clock.monotonic()",
    "o.urandom(8)",
    "u.uuid4()",
    "u.uuid1()",
    "o.environ['HOME']",
    "p.read_text()",
    "import dataclasses\nd = dataclasses.sys",
    "import dataclasses as d\nd.sys.exit()",
    "import collections\ncollections._sys",
    "from dataclasses import sys",
    "from collections import _sys",
    "from re import *",
    "async def f():\n    pass",
    "async def f():\n    await g()",
    "n = 0\ndef f():\n    global n\n    n += 1",
]


@pytest.mark.parametrize("code", IMPURE)
def test_the_checker_catches(code: str) -> None:
    assert impurities(code, ("reference.core",)), f"not caught: {code}"


PURE_CODE = [
    "from __future__ import annotations",
    "from dataclasses import dataclass, replace",
    "import collections.abc\nx = collections.abc.Iterable",
    "from collections import abc",
    "from collections.abc import Iterable",
    "from enum import StrEnum",
    "from itertools import pairwise",
    "import re",
    "from reference.core import update",
    "from reference.core.update import decide",
    "import reference.core.errors",
    "def f(now_ms, opened): return now_ms + opened",
    "class Container:\n    def __hash__(self): return 3",
]


@pytest.mark.parametrize("code", PURE_CODE)
def test_the_checker_lets_pass(code: str) -> None:
    assert impurities(code, ("reference.core",)) == []
