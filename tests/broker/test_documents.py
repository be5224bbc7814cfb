from __future__ import annotations

import ast
import inspect
from pathlib import Path

from reference.broker import capabilities
from reference.broker.capabilities import CAPABILITIES, Capabilities, Kind

DOCUMENT = Path(__file__).parents[2] / "docs" / "brokers.md"


def questions() -> dict[str, str]:
    """Field name to the docstring below it."""
    tree = ast.parse(inspect.getsource(capabilities))
    (found,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == Capabilities.__name__]
    said: dict[str, str] = {}
    for field, below in zip(found.body, found.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(below, ast.Expr), f"{field.target.id} has no docstring"
            assert isinstance(below.value, ast.Constant)
            said[field.target.id] = str(below.value.value)
    return said


def test_the_document_says_what_the_brokers_declare() -> None:
    rows = {kind: CAPABILITIES[kind].rows() for kind in Kind}
    lines = [
        f"| {words} (`{name}`) | {rows[Kind.AMQTT][name]} | {rows[Kind.MOSQUITTO][name]} |"
        for name, words in questions().items()
    ]
    assert "\n".join(lines) in DOCUMENT.read_text(encoding="utf-8"), "the table should be:\n" + "\n".join(
        lines
    )


def test_every_capability_is_asked_for_by_the_contract() -> None:
    folder = Path(__file__).parent
    sources = [*(folder / "contract").glob("test_*.py"), folder / "test_rights_table.py"]
    asked = "".join(path.read_text(encoding="utf-8") for path in sources)
    missing = [name for name in questions() if f"can.{name}" not in asked and name != "mqtt_version"]
    assert missing == []
