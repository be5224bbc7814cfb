"""What `blackstart chaos validate`, `new` and `list` do."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from chaos import listing
from chaos.load import default_folder, problems, scenario_files
from chaos.new import Answers, Question, checked, compose, path_for, text_of, write
from reference.cli.output import BAD_INPUT, GOOD, show_json, show_table
from reference.core.errors import InputError

_COMMAND = "blackstart chaos"


def validate(paths: Sequence[Path] | None, as_json: bool) -> int:
    """Every problem of every file on a line of its own; answers the exit code. Raises InputError."""
    files = scenario_files(paths or [default_folder()])
    found = [problem for path in files for problem in problems(path)]
    if as_json:
        body = [problem.as_json() for problem in found]
        show_json({"valid": not found, "files": len(files), "problems": body})
    else:
        for problem in found:
            print(problem)
        if not found:
            print(f"{_counted(len(files), 'scenario')} can be played")
    return BAD_INPUT if found else GOOD


def new(
    file: Path | None, given: Mapping[str, str], settings: Sequence[str], force: bool, as_json: bool
) -> None:
    """Ask, and write. Raises InputError."""
    asks = not {"title", "fault"} <= set(given)
    made = compose(Answers(given, _ask if asks else None), _pairs(settings))
    path = file or path_for(str(made["title"]))
    text = text_of(made, path)
    if path.exists() and not force:
        there = Question("force", f"{path} is there. Write over it? (y, n)", "n", check=_yes_or_no)
        if not asks or _ask(there) != "y":
            raise InputError("is there already", where=str(path), todo="Name another file, or say --force.")
    write(path, text)
    if as_json:
        show_json({"file": str(path)})
    else:
        print(f"{path}\n\n{text}\nPlay it: {_COMMAND} run {path}")


def list_scenarios(paths: Sequence[Path] | None, as_json: bool) -> int:
    """The table; those that do not load are named on standard error. Answers the exit code. Raises InputError."""
    found, wrong = listing.scenarios(paths or [default_folder()])
    if as_json:
        show_json({
            "scenarios": [asdict(entry) for entry in found], "problems": [one.as_json() for one in wrong],
        })  # fmt: skip
    else:
        rows = [
            {
                "name": entry.name, "faults": ", ".join(entry.faults) or "-",
                "proves": entry.proves or entry.title, "runtime": entry.runtime,
                "missing": entry.missing or "-",
            }
            for entry in found
        ]  # fmt: skip
        columns = {"NAME": "name", "FAULTS": "faults", "PROVES": "proves", "RUNTIME": "runtime"}
        if any(entry.missing for entry in found):
            columns["MISSING HERE"] = "missing"
        show_table(rows, columns, f"No scenario that loads: `{_COMMAND} new` writes one.")
        for one in wrong:
            print(f"blackstart: {one}", file=sys.stderr)
    return BAD_INPUT if wrong else GOOD


def list_faults(paths: Sequence[Path] | None, as_json: bool) -> int:
    """The table of faults; answers the exit code. Raises InputError."""
    if paths:
        raise InputError("faults are in no folder", where=str(paths[0]), todo="Leave it out.")
    found = listing.faults()
    if as_json:
        show_json({"faults": [asdict(entry) for entry in found]})
        return GOOD
    rows = [
        {
            "name": entry.name, "family": entry.family, "about": entry.about, "takes": _takes(entry),
            "needs": ", ".join(entry.needs) or "-", "shown": entry.shown_by,
        }
        for entry in found
    ]  # fmt: skip
    columns = {
        "FAMILY": "family", "FAULT": "name", "WHAT HAPPENS": "about", "WITH": "takes", "NEEDS": "needs",
        "SHOWN BY": "shown",
    }  # fmt: skip
    show_table(rows, columns, "There is no fault.")
    return GOOD


def _takes(entry: listing.FaultEntry) -> str:
    link = [f"link: {' | '.join(entry.links)}"] if entry.links else []
    return "\n".join([*link, *map(str, entry.takes)]) or "-"


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    found = {}
    for one in settings:
        key, equals, value = one.partition("=")
        if not equals:
            raise InputError(f"{one!r} has no value", where="--with", todo="Write KEY=VALUE.")
        found[key] = value
    return found


def _yes_or_no(answer: str) -> str:
    if answer not in ("y", "n"):
        raise ValueError("answer y or n")
    return answer


def _ask(question: Question) -> str:
    """Ask on the terminal until the answer can be; a choice is answered by its name or its number.

    Raises InputError when nobody answers any more.
    """
    choices = list(question.choices or ())
    for number, (name, meaning) in enumerate((question.choices or {}).items(), 1):
        print(f"  {number}  {name}{f': {meaning}' if meaning else ''}", file=sys.stderr)
    usual = f" [{question.default}]" if question.default else ""
    while True:
        print(f"{question.text}{usual} ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise InputError(
                "nobody answers any more", where=f"--{question.key}", todo="Answer it as an option."
            )
        answer = line.strip()
        if not answer and question.default is not None:
            return question.default
        if answer.isdecimal() and 1 <= int(answer) <= len(choices):
            answer = choices[int(answer) - 1]
        try:
            return checked(question, answer)
        except ValueError as error:
            print(f"  {error}", file=sys.stderr)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
