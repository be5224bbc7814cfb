"""What is wrong with a scenario file, and where in it."""

from __future__ import annotations

from reference.core.errors import InputError


class ScenarioError(InputError):
    """One thing that is wrong. `where` is `file:line`; line and column count from 1."""

    def __init__(self, what: str, *, file: str, line: int = 1, column: int = 1, todo: str = "") -> None:
        super().__init__(what, where=f"{file}:{line}", todo=todo)
        self.file = file
        self.line = line
        self.column = column

    def as_json(self) -> dict[str, object]:
        """As `validate --json` shows it."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "what": self.what,
            "todo": self.todo,
        }
