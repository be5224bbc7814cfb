"""`blackstart chaos validate`, `new`, `list`, `schema`: as people meet them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from chaos.faults import all_faults
from chaos.load import SHIPPED, load
from chaos.scenario.model import FaultUse
from reference.cli.main import app
from tests.chaos.scenario.written import GOOD, write
from tests.cli.test_commands import environment

BAD = "title: x\nbench: {divices: 2}\nmethod:\n  - action: updat\n"


def blackstart(folder: Path, *arguments: str, code: int = 0, answers: str = "") -> Result:
    """Run it in `folder`, with these lines on its standard input, and check its exit code.

    In this process: what all faults import takes a second each time.
    """
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, arguments, input=answers, catch_exceptions=False)
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr)
    return done


def refused(folder: Path, *arguments: str) -> str:
    """One sentence on standard error, and nothing on standard output."""
    done = blackstart(folder, *arguments, code=2)
    assert done.stdout == ""
    said = done.stderr.strip()
    assert len(said.splitlines()) == 1, said
    return said.removeprefix("blackstart: ")


def answered(folder: Path, answers: str, *arguments: str, code: int = 0) -> Result:
    """`chaos new` with these lines on its standard input."""
    return blackstart(folder, "chaos", "new", *arguments, code=code, answers=answers)


# ---- validate


def test_each_problem_is_on_a_line_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, BAD, "bad.yaml")
    write(tmp_path, GOOD, "good.yaml")
    done = blackstart(tmp_path, "chaos", "validate", "bad.yaml", "good.yaml", code=2)
    assert done.stdout.splitlines() == [
        "bad.yaml:2: there is no key 'divices' here. Did you mean 'devices'?",
        "bad.yaml:4: there is no action 'updat'. Did you mean 'update'?",
    ]
    assert done.stderr == ""


def test_what_is_good_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "scenarios").mkdir()
    write(tmp_path / "scenarios", GOOD)
    assert blackstart(tmp_path, "chaos", "validate").stdout == "1 scenario can be played\n"
    assert blackstart(tmp_path, "chaos", "validate", "scenarios").stdout == "1 scenario can be played\n"


def test_problems_as_json(tmp_path: Path) -> None:
    write(tmp_path, BAD, "bad.yaml")
    found = json.loads(blackstart(tmp_path, "chaos", "validate", "bad.yaml", "--json", code=2).stdout)
    assert (found["valid"], found["files"]) == (False, 1)
    assert found["problems"][0] == {
        "file": "bad.yaml", "line": 2, "column": 9, "what": "there is no key 'divices' here",
        "todo": "Did you mean 'devices'?",
    }  # fmt: skip


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    assert refused(tmp_path, "chaos", "validate", "no.yaml") == "no.yaml: there is no such file or folder"
    assert "`blackstart chaos new` writes one" in refused(tmp_path, "chaos", "validate", ".")


def test_those_that_are_shipped_are_the_default(tmp_path: Path) -> None:
    done = blackstart(tmp_path, "chaos", "validate")
    assert done.stdout == f"{len(list(SHIPPED.glob('*.yaml')))} scenarios can be played\n"


# ---- new


def test_options_answer_everything(tmp_path: Path) -> None:
    done = blackstart(
        tmp_path, "chaos", "new", "--title", "Killed in the trial", "--fault", "agent-killed", "--when", "verifying",
        "--for", "1s", "--outcome", "succeeded",
    )  # fmt: skip
    path = tmp_path / "killed-in-the-trial.yaml"
    text = path.read_text("utf-8")
    assert text.splitlines()[1:] == [
        "title: Killed in the trial",
        "method:",
        "  - fault: agent-killed",
        "    when: {phase: verifying}",
        "    for: 1s",
        "  - action: update",
        "    to: 2.0.0",
        "expect:",
        "  outcome: succeeded",
    ]
    assert text in done.stdout
    blackstart(tmp_path, "chaos", "validate", str(path))


@pytest.mark.parametrize(
    ("name", "link"), [(n, link) for n, f in all_faults().items() for link in f.links or ("",)]
)
def test_a_scenario_can_be_made_of_every_fault(name: str, link: str, tmp_path: Path) -> None:
    from chaos.listing import parameters
    from chaos.new import Answers, compose, text_of

    examples = {
        "a duration": "1s",
        "a size": "64KiB",
        "a fraction": "50%",
        "a whole number": "5",
        "text": "1.0.0",
    }
    settings = {
        one.name: next((v for k, v in examples.items() if one.takes.startswith(k)), one.takes.split(" | ")[0])
        for one in parameters(name)
        if one.required
    }
    given = {"title": "x", "fault": name, **({"link": link} if link else {})}
    made = compose(Answers(given), settings)
    path = write(tmp_path, text_of(made, tmp_path / "story.yaml"))
    assert [use.fault for use in load(path).faults] == [name]


def test_the_schema_is_found_wherever_the_file_goes(tmp_path: Path) -> None:
    (tmp_path / "scenarios/deeper").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    blackstart(tmp_path, "chaos", "schema", "scenarios/schema.json")
    for folder, way in (
        ("scenarios", "schema.json"),
        ("scenarios/deeper", "../schema.json"),
        ("elsewhere", "../scenarios/schema.json"),
    ):
        file = f"{folder}/x.yaml"
        blackstart(tmp_path, "chaos", "new", file, "--title", "x", "--fault", "killed")
        head = (tmp_path / file).read_text("utf-8").splitlines()[0]
        assert head == f"# yaml-language-server: $schema={way}"
        assert (tmp_path / folder / way).is_file()


def test_it_asks_for_what_was_not_given(tmp_path: Path) -> None:
    answers = "Killed in the trial\n\nparts\nagent-kiled\nagent-killed\nverifyin\nverifying\n2s\n3\ncandidate_exited\n"
    done = answered(tmp_path, answers)
    assert "'agent-kiled' is none of them. Did you mean 'agent-killed'?" in done.stderr
    assert "'verifyin' is no moment. Did you mean 'verifying'?" in done.stderr
    scenario = load(tmp_path / "killed-in-the-trial.yaml")
    use = scenario.method[0]
    assert isinstance(use, FaultUse)
    assert (use.fault, use.when.phase if use.when else None, str(use.for_)) == (
        "agent-killed",
        "verifying",
        "2s",
    )
    assert (scenario.expect.outcome, scenario.expect.reason) == (("rolled_back",), ("candidate_exited",))
    assert len((tmp_path / "killed-in-the-trial.yaml").read_text("utf-8").splitlines()) <= 12


def test_it_goes_into_the_folder_of_scenarios(tmp_path: Path) -> None:
    (tmp_path / "scenarios").mkdir()
    blackstart(tmp_path, "chaos", "new", "--title", "Ein Übel, was?", "--fault", "killed")
    assert (tmp_path / "scenarios/ein-bel-was.yaml").is_file()


def test_no_answers_no_file(tmp_path: Path) -> None:
    done = answered(tmp_path, "x\n", code=2)
    assert "blackstart: --begins: nobody answers any more. Answer it as an option." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_without_being_asked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    words = ("mine.yaml", "--title", "x", "--fault", "killed")
    assert refused(tmp_path, "chaos", "new", *words).startswith("mine.yaml: is there already.")
    assert path.read_text() == "mine"
    options = (
        "mine.yaml",
        "--fault",
        "killed",
        "--begins",
        "1.0.0",
        "--with",
        "dark=0ms",
        "--when",
        "start",
        "--for",
        "1s",
    )
    answered(tmp_path, "x\nsucceeded\nn\n", *options, code=2)
    assert path.read_text() == "mine"
    answered(tmp_path, "x\nsucceeded\ny\n", *options)
    assert load(path).title == "x"
    path.write_text("mine")
    blackstart(tmp_path, "chaos", "new", *words, "--force")
    assert load(path).title == "x"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fault", "kiled"), "fault: there is no fault 'kiled'. Did you mean 'killed'?"),
        (("--fault", "killed", "--when", "verifyng"), "--when: 'verifyng' is no moment. Did you mean 'verifying'?"),
        (("--fault", "killed", "--when", "120%"), "--when: '120%' is no fraction"),
        (("--fault", "killed", "--when", "fault-healed"), "--when: fault-healed is of another fault"),
        (("--fault", "killed", "--with", "darc=1s"), "--with: killed takes no 'darc'. It takes: dark: a duration"),
        (("--fault", "killed", "--with", "dark"), "--with: 'dark' has no value. Write KEY=VALUE."),
        (("--fault", "killed", "--with", "dark=5"), "--with dark: 5 has no unit"),
        (("--fault", "killed", "--for", "5"), "--for: 5 has no unit"),
        (("--fault", "container-killed", "--for", "5s"), "--for: container-killed is done at once"),
        (("--fault", "killed", "--outcome", "ok"), "--outcome: 'ok' is none of them. One of: succeeded, failed"),
        (("--fault", "killed", "--outcome", "failed", "--reason", "x"), "--reason: there is no reason 'x'."),
        (("--fault", "killed", "--begins", "none", "--outcome", "rolled_back"), "x.yaml: a first install cannot end as"),
        (("Bad_Name.yaml", "--fault", "killed"), "Bad_Name.yaml: the file's name is the scenario's"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_is_refused(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    assert told in refused(tmp_path, "chaos", "new", "--title", "x", *words)
    assert list(tmp_path.iterdir()) == []


# ---- list, schema


def test_the_table_of_scenarios(tmp_path: Path) -> None:
    write(tmp_path, f"proves: it works\n{GOOD.lstrip()}", "good.yaml")
    write(tmp_path, BAD, "bad.yaml")
    done = blackstart(tmp_path, "chaos", "list", ".", code=2)
    head, row = done.stdout.splitlines()
    assert head.split()[:4] == ["NAME", "FAULTS", "PROVES", "RUNTIME"]
    assert row.split() == ["good", "-", "it", "works", "process"]
    assert done.stderr == "blackstart: bad.yaml:2: there is no key 'divices' here. Did you mean 'devices'?\n"


def test_the_table_of_those_that_are_shipped_as_json(tmp_path: Path) -> None:
    found = json.loads(blackstart(tmp_path, "chaos", "list", "--json").stdout)
    names = [entry["name"] for entry in found["scenarios"]]
    assert names == sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    cut = next(entry for entry in found["scenarios"] if "power-cut" in entry["faults"])
    assert {"root", "loop"} <= set(cut["needs"])
    assert cut["proves"]


def test_the_table_of_faults(tmp_path: Path) -> None:
    found = json.loads(blackstart(tmp_path, "chaos", "list", "--faults", "--json").stdout)["faults"]
    assert {entry["name"] for entry in found} == set(all_faults())
    killed = next(entry for entry in found if entry["name"] == "killed")
    assert killed["family"] == "power"
    assert killed["takes"][0]["name"] == "dark"
    assert killed["takes"][0]["takes"] == "a duration"
    assert all(entry["about"] and entry["shown_by"] for entry in found)
    shown = blackstart(tmp_path, "chaos", "list", "--faults").stdout
    assert all(name in shown for name in all_faults())
    assert "dark: a duration (0ms)" in shown


def test_faults_are_in_no_folder(tmp_path: Path) -> None:
    assert refused(tmp_path, "chaos", "list", ".", "--faults") == ".: faults are in no folder. Leave it out."


def test_the_schema_is_printed_or_written(tmp_path: Path) -> None:
    printed = blackstart(tmp_path, "chaos", "schema").stdout
    assert json.loads(printed)["title"] == "A scenario of Blackstart"
    blackstart(tmp_path, "chaos", "schema", "schema.json")
    assert (tmp_path / "schema.json").read_text("utf-8") == printed


def test_help_names_them_and_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom reference.cli.main import app\n"
        "try: app(['chaos', '--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print('LOADED', [m for m in ('yaml', 'asyncio', 'chaos', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), text=True, capture_output=True, timeout=30,
    )  # fmt: skip
    assert "LOADED []" in done.stdout, done.stdout
    assert all(command in done.stdout for command in ("validate", "new", "list", "schema"))
