"""A new scenario, made of answers: what it is about, which fault, when, and what has to come of it.

The answers come from whoever is asked; what nobody is asked has its usual value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from chaos.dump import dump
from chaos.faults import all_faults, fault_named
from chaos.faults.base import Family, Fault, Need
from chaos.lines import Plain, read
from chaos.listing import Parameter, parameters
from chaos.load import ENDS, SHIPPED, problems_in
from chaos.scenario import Scenario
from chaos.scenario.model import FaultUse, Happening, Link
from chaos.scenario.quantities import DurationRange, FractionRange
from chaos.scenario.sense import meant
from reference.core.errors import InputError, Reason
from reference.core.model import Outcome, Phase

LASTS = "5s"
"""How long a fault lasts, when nobody says."""
START = "start"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
_NEEDS_OF = (Happening.FAULT_IN_FORCE, Happening.FAULT_HEALED)


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to be asked."""

    key: str
    """The option that answers it, without its dashes."""
    text: str
    default: str | None = None
    """The usual answer; None: there is none."""
    choices: Mapping[str, str] | None = None
    """What can be answered, and what each of it means."""
    check: Callable[[str], object] = str
    """Raises ValueError, or InputError, for an answer that cannot be."""


Ask = Callable[[Question], str]


@dataclass(frozen=True, slots=True)
class Answers:
    """Who answers: the options that were given, then whoever is asked; None: nobody is."""

    given: Mapping[str, str]
    ask: Ask | None = None

    def get(self, question: Question) -> str:
        """An answer that passed its check. Raises InputError."""
        answer = self.given.get(question.key)
        if answer is None:
            if self.ask is not None:
                return self.ask(question)
            if question.default is None:
                raise InputError("is missing, and has no usual value", where=f"--{question.key}")
            answer = question.default
        try:
            checked(question, answer)
        except ValueError as error:
            raise InputError(str(error), where=f"--{question.key}") from None
        return answer


def checked(question: Question, answer: str) -> str:
    """The answer, when it can be. Raises ValueError."""
    if question.choices is not None and answer not in question.choices:
        known = list(question.choices)
        hint = meant(answer, known, f"One of: {', '.join(known)}.")
        raise ValueError(f"{answer!r} is none of them. {hint}")
    try:
        question.check(answer)
    except InputError as error:
        raise ValueError(f"{error.what}. {error.todo}") from None
    return answer


def compose(answers: Answers, settings: Mapping[str, str]) -> dict[str, Plain]:
    """The scenario as it stands in a file. `settings`: of the fault, as text. Raises InputError."""
    title = answers.get(Question("title", "What is it about, in a few words?", check=_title))
    begins = answers.get(
        Question("begins", "Which version runs before? (`none`: a first install)", "1.0.0", check=_begins)
    )
    fault = _fault(answers)
    use: dict[str, Plain] = {"fault": fault.name}
    if fault.links:
        links = {link.value: "" for link in fault.links}
        use["link"] = answers.get(Question("link", "On which link?", next(iter(links)), links))
    if given := _settings(answers, fault, settings):
        use["with"] = given
    if moment := _moment(answers.get(Question("when", _WHEN, START, check=_moment))):
        use["when"] = moment
    if fault.lasts:
        lasts = answers.get(
            Question("for", "For how long? (`end`: until the method ends)", LASTS, check=_lasts)
        )
        if lasts != "end":
            use["for"] = lasts
    elif "for" in answers.given:
        raise InputError(f"{fault.name} is done at once, and takes no `for`", where="--for")
    outcomes = {outcome.value: "" for outcome in Outcome}
    outcome = answers.get(
        Question("outcome", "How has the update to end?", Outcome.SUCCEEDED.value, outcomes)
    )
    expect: dict[str, Plain] = {"outcome": outcome}
    if outcome != Outcome.SUCCEEDED:
        text = "With which reason? (docs/glossary.md; `any`: do not judge it)"
        reason = answers.get(Question("reason", text, "any", check=_reason))
        if reason != "any":
            expect["reason"] = reason
    update: dict[str, Plain] = {"action": "update", "to": answers.given.get("to", "2.0.0")}
    bench = _bench(fault, use)
    if begins != "1.0.0":
        bench["begins"] = None if begins == "none" else begins
    made: dict[str, Plain] = {"title": title, **({"bench": bench} if bench else {})}
    return {**made, "method": [use, update], "expect": expect}


def text_of(made: Mapping[str, Plain], path: Path) -> str:
    """As it is written into the file. Raises InputError when it would not load."""
    try:
        scenario = Scenario.model_validate(made)
    except ValidationError as error:
        said = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
        raise InputError(said) from None
    text = f"# yaml-language-server: $schema={schema_for(path)}\n{dump(scenario)}"
    for problem in problems_in(text.encode(), path):
        raise InputError(problem.what, where=str(path), todo=problem.todo)
    return text


def path_for(title: str) -> Path:
    """Where it goes when nobody says: into `scenarios`, where there is one."""
    words = re.findall(r"[a-z0-9]+", title.lower())[:8]
    name = "-".join(words) or "scenario"
    folder = Path("scenarios") if Path("scenarios").is_dir() else Path()
    return folder / f"{name}{ENDS[0]}"


def schema_for(path: Path) -> str:
    """The way from the file to the schema: beside it, else in a `scenarios` above it, else Blackstart's own."""
    folder = path.resolve().parent
    above = [folder, *folder.parents]
    near = [
        folder / "schema.json",
        *(one / "scenarios" / "schema.json" for one in above),
        SHIPPED / "schema.json",
    ]
    found = next((one for one in near if one.is_file()), near[0])
    return Path(os.path.relpath(found, folder)).as_posix()


def write(path: Path, text: str) -> None:
    """Raises InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from None


_WHEN = "When? `start`, a phase (verifying), an event (client-down), a time (2s), a part of the pull (50%)"


def _title(text: str) -> str:
    if not 1 <= len(text) <= 200:
        raise ValueError("a title has 1 to 200 characters")
    return text


def _begins(text: str) -> str:
    if _VERSION.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no version: letters, digits, `.`, `+` and `-`")
    return text


def _lasts(text: str) -> str:
    if text != "end":
        DurationRange.parse(text)
    return text


def _reason(text: str) -> str:
    known = [reason.value for reason in Reason]
    if text != "any" and text not in known:
        raise ValueError(
            f"there is no reason {text!r}. {meant(text, known, 'docs/glossary.md has them all.')}"
        )
    return text


def _moment(text: str) -> dict[str, Plain]:
    """What `when` says. Raises ValueError."""
    if text == START:
        return {}
    if text in list(Phase):
        return {"phase": text}
    if text in list(Happening):
        if text in _NEEDS_OF:
            raise ValueError(f"{text} is of another fault, and there is none")
        return {"event": text}
    if text.endswith("%"):
        FractionRange.parse(text)
        return {"pulled": text}
    if text[:1].isdigit():
        DurationRange.parse(text)
        return {"time": text}
    known = [START, *Phase, *(event for event in Happening if event not in _NEEDS_OF)]
    allowed = f"One of: {', '.join(known)}, 2s, 50%."
    raise ValueError(f"{text!r} is no moment. {meant(text, known, allowed)}")


def _fault(answers: Answers) -> type[Fault]:
    if (name := answers.given.get("fault")) is not None:
        return fault_named(name)
    faults = all_faults()
    families = [family for family in Family if any(f.family is family for f in faults.values())]
    names = {f.value: ", ".join(n for n, one in faults.items() if one.family is f) for f in families}
    if answers.ask is None:
        raise InputError("is missing, and has no usual value", where="--fault")
    family = answers.get(Question("family", "What is to be hurt?", next(iter(names), None), names))
    choices = {name: fault.about for name, fault in faults.items() if fault.family == family}
    return faults[answers.get(Question("fault", "Which fault?", next(iter(choices)), choices))]


def _bench(fault: type[Fault], use: Mapping[str, Plain]) -> dict[str, Plain]:
    """What the bench has to be for the fault to happen."""
    needs = fault.needs_for(FaultUse.model_validate(use))
    bench: dict[str, Plain] = {"runtime": "docker"} if Need.DOCKER in needs else {}
    if Need.POSTGRESQL in needs or use.get("link") == Link.SERVICE_DATABASE:
        bench["database"] = "postgresql"
    return bench


def _settings(answers: Answers, fault: type[Fault], given: Mapping[str, str]) -> dict[str, Plain]:
    """What stands under `with`: what is usual is left out."""
    taken = parameters(fault.name)
    for key in given:
        if key not in [one.name for one in taken]:
            known = ", ".join(str(one) for one in taken) or "nothing"
            raise InputError(f"{fault.name} takes no {key!r}", where="--with", todo=f"It takes: {known}.")
    found: dict[str, Plain] = {}
    for one in taken:
        question = Question(
            one.name, f"{one.name}, {one.takes}? {one.about}".strip(), None if one.required else one.default,
            check=_fits(fault, one),
        )  # fmt: skip
        if one.name in given:
            answer = _answered(question, given[one.name])
        elif answers.ask is not None:
            answer = answers.ask(question)
        elif one.required:
            raise InputError(
                f"{fault.name} needs {one.name}, {one.takes}",
                where="--with",
                todo=f"Say --with {one.name}=...",
            )
        else:
            continue
        if one.required or answer != one.default:
            found[one.name] = _plain(answer)
    return found


def _answered(question: Question, answer: str) -> str:
    try:
        return checked(question, answer)
    except ValueError as error:
        raise InputError(str(error), where=f"--with {question.key}") from None


def _fits(fault: type[Fault], one: Parameter) -> Callable[[str], object]:
    """Whether the fault takes it; the other parameters are not looked at."""

    def check(answer: str) -> object:
        if answer == one.default and not one.required:
            return answer
        try:
            fault.params.model_validate({one.name: _plain(answer)})
        except ValidationError as error:
            for details in error.errors(include_url=False):
                if details["loc"][:1] == (one.name,):
                    raise ValueError(str(details["msg"]).removeprefix("Value error, ")) from None
        return answer

    return check


def _plain(answer: str) -> Plain:
    """As YAML means it: a number, true, a list, or text."""
    root, wrong = read(answer.encode(), "")
    return answer if root is None or wrong else root.plain()


__all__: Sequence[str] = [
    "Answers", "Ask", "Question", "checked", "compose", "path_for", "schema_for", "text_of", "write",
]  # fmt: skip
