"""A scenario file that is wrong: what is said, in which line, with what suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from chaos.lines import read
from chaos.load import load, load_all, problems, scenario_files
from chaos.scenario import Scenario
from chaos.scenario.model import FaultUse, Update
from chaos.scenario.quantities import DurationRange
from reference.core.errors import InputError, Reason
from reference.core.model import Outcome, Phase
from tests.chaos.scenario.written import GOOD, line_of, write

ROOT = Path(__file__).parents[3]


def test_a_good_file_is_what_it_says(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        title: Killed in the trial
        time-limit: 2min
        bench:
          devices: 2
          versions:
            - {version: 2.0.0, defect: "slow-start:500", stable-for: 300ms}
        method:
          - action: update
            to: 2.0.0
          - fault: agent-killed
            device: 2
            when: {phase: verifying, then: 100ms..200ms}
            for: 1s
        expect:
          outcome: [succeeded, rolled_back]
          reason: null
        """,
    )
    scenario = load(path)
    assert scenario.time_limit == 120_000
    assert scenario.bench.spec("2.0.0").stable_for == 300
    update, use = scenario.method
    assert update == Update(action="update")
    assert isinstance(use, FaultUse)
    assert use.when is not None
    assert (use.when.phase, use.when.then) == (Phase.VERIFYING, DurationRange(100, 200))
    assert use.for_ == DurationRange(1_000, 1_000)
    assert scenario.expect.outcome == (Outcome.SUCCEEDED, Outcome.ROLLED_BACK)
    assert scenario.expect.judges_reason
    assert problems(path) == []


WRONG = [
    ("divices: 2", "bench: {divices: 2}", "there is no key 'divices' here. Did you mean 'devices'?"),
    ("time_limit", "time_limit: 90s", "there is no key 'time_limit' here. Did you mean 'time-limit'?"),
    ("time-limit", "time-limit: 90", "time-limit: 90 has no unit, such as 90ms; write 300ms, 1.5s, 10min or 1h"),
    ("seed", 'seed: "2"', "seed: has to be a whole number, and is '2'. Write it without quotes."),
    ("seed", "seed: -1", "seed: -1 has to be at least 0"),
    ("seed", "seed: 1.5", "seed: has to be a whole number, and is 1.5"),
    ("runtime", "bench: {runtime: dokker}", "runtime: 'dokker' is not one of process, docker. Did you mean 'docker'?"),
    ("begins", "bench: {begins: 1.0}", 'begins: has to be text, and is 1.0. Write it in quotes: "1.0".'),
    ("begins", "bench: {begins: a b}", "begins: 'a b' has to be letters, digits, `.`, `+` and `-`"),
    ("devices", "bench: {devices: 99}", "devices: 99 has to be at most 50"),
    ("tags", "tags: network", "tags: has to be a list, and is 'network'. Write [network]."),
    ("tags", "tags: [Net]", "tags: 'Net' has to be small letters and digits, words joined by `-`"),
    ("snapshot", "bench: {versions: [{version: a, snapshot: 'true'}]}",
     "snapshot: has to be true or false, and is 'true'. Write it without quotes."),
    ("defect", "bench: {versions: [{version: a, defect: crash-on-stat}]}",
     "there is no defect 'crash-on-stat'. Did you mean 'crash-on-start'?"),
    ("defect", "bench: {versions: [{version: a, defect: 'slow-start:1s'}]}",
     "'1s' is no time in ms. Write slow-start:500."),
    ("limits", "bench: {limits: {bots: 3}}", "the updater has no limit 'bots'. Did you mean 'boots'?"),
    ("online", "fleet: {online: 120%}", "online: '120%' is no fraction: write 50%, or a number from 0 to 1"),
    ("bench", "bench:", "bench: has no value. Give it one, or leave it out."),
    ("bench", "bench: [1]", "bench: has to be keys and values, and is a list"),
    ("network", "bench: {network: bridge}",
     "bench: the process runtime has no network of its own: bridge needs runtime: docker"),
    ("versions", "bench: {versions: [{version: a}, {version: a}]}", "bench: a version is there twice"),
    ("memory", "bench: {memory: 64}",
     "the process runtime does not bound what a client takes. Say `runtime: docker`."),
    ("memory", "bench: {runtime: docker, memory: 1}",
     "memory: 1 MiB are too little for any client: at least 16"),
    ("limits", "bench: {limits: {pull_attempts_many: 0}}", "pull_attempts_many: 0 has to be at least 1"),
    ("limits", f"bench: {{limits: {{pull_attempts_many: {10**26}}}}}",
     f"pull_attempts_many: {10**26} has to be at most {2**31}"),
    ("defect", f"bench: {{versions: [{{version: a, defect: 'slow-start:{'9' * 400}'}}]}}",
     f"'{'9' * 40}...' is no time in ms, of at most 999999. Write slow-start:500."),
    ("time-limit", f"time-limit: {'9' * 400}h", f"time-limit: {'9' * 40}... is too long: at most 1000h"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "text", "told"), WRONG, ids=[told[:40] for _, _, told in WRONG])
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, part: str, text: str, told: str) -> None:
    path = write(tmp_path, f"# one\n# two\n{text}\n{GOOD}")
    assert [str(problem) for problem in problems(path)] == [f"{path}:{line_of(path, part)}: {told}"]
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:3: {told}"


METHOD = [
    ("- action: updat", "there is no action 'updat'. Did you mean 'update'?"),
    ("- action: sleep", "there is no action 'sleep'. One of: update, cancel, wait, restart-agent, hold, release."),
    ("- acton: update", "this item has neither a `fault` nor an `action`. Did you mean 'action'?"),
    ("- {}", ("this item has neither a `fault` nor an `action`. Each item has a `fault`, or an `action`: update, cancel, "
             "wait, restart-agent, hold or release.")),
    ("- update", ("'update' is no item of a method. Each item has a `fault`, or an `action`: update, cancel, wait, "
                 "restart-agent, hold or release.")),
    ("- {action: update, too: 1.0.0}", "there is no key 'too' here. Did you mean 'to'?"),
    ("- {action: cancel, xyz: 1}", "there is no key 'xyz' here. Known here: action, device, when."),
    ("- {action: wait}", "wait takes one of `for` and `until`"),
    ("- {action: wait, for: 1s, until: {time: 1s}}", "wait takes one of `for` and `until`"),
    ("- {action: cancel, when: {phase: verifing}}",
     ("phase: 'verifing' is not one of idle, accepted, pulling, staged, switching, verifying, committing, rolling_back, "
     "cleaning_up. Did you mean 'verifying'?")),
    ("- {action: cancel, when: {phase: rolling-back}}",
     ("phase: 'rolling-back' is not one of idle, accepted, pulling, staged, switching, verifying, committing, "
     "rolling_back, cleaning_up. Did you mean 'rolling_back'?")),
    ("- {action: cancel, when: {phase: verifying, time: 1s}}",
     "when: one of phase, event, time and pulled says when; here is phase and time together"),
    ("- {action: cancel, when: {nth: 2}}", "when: one of phase, event, time and pulled says when; here is nothing"),
    ("- {action: cancel, when: {event: fault-healed}}", "when: fault-healed needs `of`, the name of a fault"),
    ("- {action: cancel, when: {event: fault-healed, of: agent-kiled}}", ("there is no fault named 'agent-kiled' here. "
     "There is none.")),
    ("- {action: cancel, device: 2}", "there is no device 2: the bench has 1 device. Say `bench: {devices: N}`."),
    ("- {action: cancel, when: {time: 90s}}",
     "90s is not before the method's time limit, 90s. Say a longer `time-limit`."),
    ("- {fault: agent-kiled}", "there is no fault 'agent-kiled'. Did you mean 'agent-killed'?"),
    ("- {fault: agent-killed, four: 1s}", "there is no key 'four' here. Did you mean 'for'?"),
    ("- {fault: agent-killed, for: 5}", "for: 5 has no unit, such as 5ms; write 300ms, 1.5s, 10min or 1h"),
    (
        "- {fault: reset, link: service-database}",
        "there is no link from the service to its database: sqlite is a file. Say `bench: {database: postgresql}`.",
    ),
    (
        "- {fault: container-restarted}",
        "container-restarted cannot happen: there is no engine under the process runtime. Say `bench: {runtime: docker}`.",
    ),
    ("- {fault: latency, link: device-broker}", "the key 'latency' is missing"),
    ("- {fault: reset}", "reset needs a link. One of: device-broker, device-registry, service-broker, service-database, api-client."),
    ("- {fault: agent-killed, link: device-broker}", "agent-killed cannot be on device-broker. Leave it out."),
    ("- {fault: agent-killed, link: device-brokr}",
     ("link: 'device-brokr' is not one of device-broker, device-registry, service-broker, service-database, api-client. "
     "Did you mean 'device-broker'?")),
    ("- {fault: agent-killed, with: {x: 1}}", "there is no key 'x' here. Nothing is taken here."),
    ("- {fault: agent-killed, with: 5}", "with: has to be keys and values, and is 5"),
    ("- {fault: agent-killed, repeat: {times: 1, every: 1s}}", "times: 1 has to be at least 2"),
    ("- {fault: agent-killed, when: {event: fault-healed, of: agent-killed}}", "agent-killed waits for itself"),
    ("- {fault: agent-killed, when: }", "when: has no value. Give it one, or leave it out."),
    ("- {fault: container-killed, for: 5s}", "container-killed is done at once, and takes no `for`. Leave it out."),
    ("- {fault: container-killed, with: {which: newst}}",
     "which: 'newst' is not one of newest, oldest, all. Did you mean 'newest'?"),
    ("- {fault: container-killed, with: {wich: newest}}", "there is no key 'wich' here. Did you mean 'which'?"),
]  # fmt: skip


@pytest.mark.parametrize(("item", "told"), METHOD, ids=[item for item, _ in METHOD])
def test_what_is_wrong_with_an_item_of_the_method(tmp_path: Path, item: str, told: str) -> None:
    path = write(tmp_path, f"title: x\nmethod:\n  - action: update\n  {item}\n")
    assert [str(problem) for problem in problems(path)] == [f"{path}:4: {told}"]


def test_only_the_kind_that_was_meant_is_spoken_of(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        title: x
        method:
          - action: update
            tu: 2.0.0
            devise: 1
          - fault: container-killed
            naem: x
            with:
              which: newst
              what: 1
            when:
              fase: verifying
        rollbacks:
          - action: cancel
            wen: {time: 1s}
        """,
    )
    assert [(p.line, p.column, p.what) for p in problems(path)] == [
        (4, 5, "there is no key 'tu' here"),
        (5, 5, "there is no key 'devise' here"),
        (7, 5, "there is no key 'naem' here"),
        (9, 7, "which: 'newst' is not one of newest, oldest, all"),
        (10, 7, "there is no key 'what' here"),
        (12, 7, "there is no key 'fase' here"),
        (15, 5, "there is no key 'wen' here"),
    ]


EXPECT = [
    ("{outcome: succeded}", ("outcome: 'succeded' is not one of succeeded, failed, rolled_back, rollback_failed. "
                            "Did you mean 'succeeded'?")),
    ("{outcome: []}", "outcome: is empty"),
    ("{reason: registry-error}", "reason: 'registry-error' is not known. Did you mean 'registry_error'?"),
    ("{status: SUCEEDED}", ("status: 'SUCEEDED' is not one of QUEUED, IN_PROGRESS, SUCCEEDED, FAILED, TIMED_OUT, REJECTED, "
                           "CANCELED. Did you mean 'SUCCEEDED'?")),
    ("{downtime: 900}", "downtime: 900 has no unit, such as 900ms; write 300ms, 1.5s, 10min or 1h"),
    ("{runs: 2.0.1}", "version 2.0.1 is not in this scenario. Did you mean '2.0.0'?"),
    ("{outcome: rolled_back, status: SUCCEEDED}",
     "a job that ended as rolled_back is never shown as SUCCEEDED. Leave one of the two out."),
    ("{invariants: [convergs]}", ("invariants: 'convergs' is not one of never-two-active, same-configuration, current-kept, "
     "success-proved, status-not-ahead, one-install-per-generation, terminal-is-final, service-agrees, converges. "
     "Did you mean 'converges'?")),
    ("{downtime: null}", "downtime: has no value. Give it one, or leave it out."),
]  # fmt: skip


@pytest.mark.parametrize(("expect", "told"), EXPECT, ids=[expect for expect, _ in EXPECT])
def test_what_is_wrong_with_an_expectation(tmp_path: Path, expect: str, told: str) -> None:
    path = write(tmp_path, f"title: x\nmethod:\n  - action: update\nexpect: {expect}\n")
    assert [str(problem) for problem in problems(path)] == [f"{path}:4: {told}"]


ROLLBACKS = [
    ("- {action: wait, for: 1s}",
     "a rollback cannot be a wait: the method is over. Leave it out, or put it at the method's end."),
    ("- {action: update, when: {time: 1s}}",
     "a rollback has no `when`: it is done in its turn, after the method. Leave it out."),
]  # fmt: skip


@pytest.mark.parametrize(("item", "told"), ROLLBACKS, ids=[item for item, _ in ROLLBACKS])
def test_a_rollback_waits_for_nothing(tmp_path: Path, item: str, told: str) -> None:
    text = f"title: x\nmethod:\n  - action: update\nrollbacks:\n  - action: release\n  {item}\n"
    path = write(tmp_path, text)
    assert [str(problem) for problem in problems(path)] == [f"{path}:6: {told}"]
    root, _ = read(text.encode(), "story.yaml")
    assert root is not None
    with pytest.raises(ValidationError, match="a rollback"):
        Scenario.model_validate(root.plain())


def test_a_method_that_only_waits_proves_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path, "title: x\nmethod:\n  - {action: wait, for: 1s}\n  - {action: wait, until: {time: 2s}}\n"
    )
    told = "nothing is done: the method only waits. Put a fault or an action into it."
    assert [str(problem) for problem in problems(path)] == [f"{path}:2: {told}"]
    assert not problems(write(tmp_path, "title: x\nmethod:\n  - {action: wait, for: 1s}\n  - action: hold\n"))


@pytest.mark.parametrize(
    ("name", "better"),
    [("ünï.yaml", "uni.yaml"), ("Größe ①.yml", "groe-1.yml"), ("日.yaml", "scenario.yaml")],
)
def test_a_name_that_is_suggested_is_one(tmp_path: Path, name: str, better: str) -> None:
    [problem] = problems(write(tmp_path, GOOD, name))
    assert problem.todo == f"Rename it: {better}"
    assert not problems(write(tmp_path, GOOD, better))


def test_a_first_install_that_fails_goes_back_to_nothing(tmp_path: Path) -> None:
    text = "title: x\nbench: {begins: null}\nmethod:\n  - action: update\nexpect:\n  outcome: "
    path = write(tmp_path, f"{text}rolled_back\n")
    told = "a first install cannot end as rolled_back: there is nothing to go back to. It ends as failed."
    assert [str(problem) for problem in problems(path)] == [f"{path}:6: {told}"]
    assert load(write(tmp_path, f"{text}failed\n")).bench.begins is None


def test_no_job_has_no_outcome(tmp_path: Path) -> None:
    text = "title: x\nbench: {begins: null}\nmethod:\n  - {action: restart-agent}\nexpect: {outcome: %s}\n"
    assert "there is no job" in problems(write(tmp_path, text % "succeeded"))[0].what
    assert load(write(tmp_path, text % "null")).expect.judges_outcome


def test_faults_that_wait_for_one_another(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        title: x
        method:
          - {fault: agent-killed, name: a, when: {event: fault-healed, of: b}}
          - {fault: agent-killed, name: b, when: {event: fault-in-force, of: a}}
          - {fault: agent-killed, name: c, when: {event: fault-in-force, of: a}}
        """,
    )
    assert [str(p) for p in problems(path)] == [
        f"{path}:3: a waits for b, which waits for a: neither begins",
        f"{path}:4: b waits for a, which waits for b: neither begins",
    ]


def test_faults_that_are_called_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, "title: x\nmethod:\n  - fault: agent-killed\n  - fault: agent-killed\n")
    assert [(p.line, p.what) for p in problems(path)] == [(4, "there are several faults called agent-killed")]


def test_what_is_missing(tmp_path: Path) -> None:
    assert [p.what for p in problems(write(tmp_path, "seed: 1\n"))] == [
        "the key 'title' is missing",
        "the key 'method' is missing",
    ]
    assert [str(p) for p in problems(write(tmp_path, "titel: x\nmethod: []\n"))] == [
        f"{tmp_path}/story.yaml:1: there is no key 'titel' here. Did you mean 'title'?",
        f"{tmp_path}/story.yaml:2: is empty",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ":1: is empty. `blackstart chaos new` writes one."),
        ("- 1\n", ":1: is no scenario: it has no keys"),
    ],
)
def test_what_is_no_scenario_at_all(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path, text)
    assert [str(p) for p in problems(path)] == [f"{path}{told}"]


def test_a_scenario_is_called_like_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "My Story_2.yaml")
    assert [str(p) for p in problems(path)] == [
        f"{path}:1: the file's name is the scenario's, and 'My Story_2' is not in kebab-case. Rename it: my-story-2.yaml"
    ]


def test_files_and_folders_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "deeper/c.yaml", ".hidden/d.yaml", ".e.yaml", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path, GOOD, name)
    assert [p.name for p in scenario_files([tmp_path])] == ["b.yaml", "c.yaml", "a.yml"] or scenario_files(
        [tmp_path]
    )
    assert [p.name for p, _ in load_all([tmp_path / "b.yaml", tmp_path / "a.yml", tmp_path / "b.yaml"])] == [
        "b.yaml",
        "a.yml",
    ]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    paths = [write(tmp_path, GOOD), write(tmp_path / "deeper", GOOD)]
    with pytest.raises(InputError, match="is called like"):
        scenario_files(paths)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        scenario_files([tmp_path / "no.yaml"])
    with pytest.raises(InputError, match="no scenario in this folder"):
        scenario_files([tmp_path])
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "no.yaml")


def test_the_form_refuses_what_dangles_also_without_a_file() -> None:
    with pytest.raises(ValidationError, match="there is no device 3"):
        Scenario.model_validate({"title": "x", "method": [{"action": "update", "device": 3}]})


def test_every_reason_may_be_expected(tmp_path: Path) -> None:
    for reason in Reason:
        path = write(tmp_path, f"title: x\nmethod:\n  - action: update\nexpect: {{reason: {reason}}}\n")
        assert load(path).expect.reason == (reason,)
