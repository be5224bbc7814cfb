"""Scenarios that make sense, for hypothesis: any fault that takes what is usual, anywhere, at any moment."""

from __future__ import annotations

from hypothesis import strategies as st

from chaos.faults import all_faults
from chaos.faults.base import Fault, Need
from chaos.lines import Plain
from chaos.scenario import Scenario
from chaos.scenario.model import Happening, Invariant
from chaos.scenario.quantities import DurationRange, duration_text, fraction_text
from reference.core.errors import Reason
from reference.core.model import Phase

Keys = dict[str, Plain]

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
words = st.sampled_from(
    ["yes", "1.0", "0x1F", "1e3", "null", "a: b", "- a", "# a", "'", '"', "true", "~", "", " a "]
)
titles = st.one_of(text, words.filter(bool))
names = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,2}", fullmatch=True)
versions = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,10}", fullmatch=True)
durations = st.integers(0, 50_000).map(duration_text)
ranges = st.tuples(st.integers(0, 30_000), st.integers(0, 30_000)).map(
    lambda t: str(DurationRange(*sorted(t)))
)
shares = st.one_of(st.floats(0, 1), st.floats(0, 1).map(fraction_text))
devices = st.integers(1, 3)


def some(required: Keys, **optional: st.SearchStrategy[Plain]) -> st.SearchStrategy[Keys]:
    """These keys, and any of the others."""
    return st.fixed_dictionaries(
        {}, optional={k.strip("_").replace("_", "-"): v for k, v in optional.items()}
    ).map(lambda chosen: {**required, **chosen})


def also(base: st.SearchStrategy[Keys], moment: st.SearchStrategy[Keys]) -> st.SearchStrategy[Keys]:
    """A moment, with when and where it is looked for."""
    return st.tuples(moment, base).map(lambda pair: {**pair[0], **pair[1]})


plain_events = [e.value for e in Happening if e not in (Happening.FAULT_HEALED, Happening.FAULT_IN_FORCE)]
moments = also(
    some({}, nth=st.integers(1, 9), then=ranges, device=devices),
    st.one_of(
        st.sampled_from([p.value for p in Phase]).map(lambda phase: {"phase": phase}),
        st.sampled_from(plain_events).map(lambda event: {"event": event}),
        ranges.map(lambda time: {"time": time}),
        shares.map(lambda pulled: {"pulled": pulled}),
    ),
)
actions = st.one_of(
    some({"action": "update"}, to=versions, device=devices, when=moments),
    some({"action": "cancel"}, device=devices, when=moments),
    ranges.map(lambda wait: {"action": "wait", "for": wait}),
    moments.map(lambda until: {"action": "wait", "until": until}),
    some({"action": "restart-agent"}, device=devices, when=moments),
    some({"action": "hold"}, device=devices),
)


def _usual(fault: type[Fault]) -> bool:
    return Need.DOCKER not in fault.needs and not any(
        field.is_required() for field in fault.params.model_fields.values()
    )


def uses(fault: type[Fault]) -> st.SearchStrategy[Keys]:
    """A use of one fault, with nothing special under `with`."""
    required: Keys = {"fault": fault.name}
    more: dict[str, st.SearchStrategy[Plain]] = {"device": devices, "when": moments}
    if fault.lasts:
        more["for_"] = ranges
    more["repeat"] = ranges.map(lambda every: {"times": 3, "every": every})
    base = some(required, **more)
    if not fault.links:
        return base
    links = [link.value for link in fault.links]
    return st.tuples(base, st.sampled_from(links)).map(lambda pair: {**pair[0], "link": pair[1]})


faults = st.sampled_from([fault for fault in all_faults().values() if _usual(fault)]).flatmap(uses)


def _tellable(item: Plain) -> None:
    """Leave out of a moment what cannot be told of it: which device a pull is of, the n-th time of a time."""
    assert isinstance(item, dict)
    when = item.get("when", item.get("until"))
    if not isinstance(when, dict):
        return
    pull = "pulled" in when or when.get("event") == Happening.PULL_BEGINS
    if pull or "time" in when:
        when.pop("device", None)
    if "pulled" in when or "time" in when:
        when.pop("nth", None)
    if pull:
        item.pop("device", None)


def _done(method: list[Keys]) -> bool:
    """Whether something is done: a method that only waits is refused."""
    return any(item.get("action") != "wait" for item in method)


@st.composite
def files(draw: st.DrawFn) -> Keys:
    """A scenario as it stands in a file."""
    method: list[Plain] = list(
        draw(st.lists(st.one_of(actions, faults), min_size=1, max_size=5).filter(_done))
    )
    for number, item in enumerate(method):
        _tellable(item)
        if isinstance(item, dict) and "fault" in item:
            item["name"] = f"{draw(names)}-{number}"
    bench = draw(
        some(
            {"devices": 3, "database": "postgresql"},
            begins=versions,
            versions=st.lists(
                some({}, defect=st.sampled_from(["", "crash-on-start", "slow-start:500"]), layer=st.integers(0, 9),
                     snapshot=st.booleans(), window=durations, handover=st.sampled_from(["stop-first", "overlap"])),
                max_size=2,
            ).map(lambda specs: [{"version": f"3.0.{n}", **spec} for n, spec in enumerate(specs)]),
            limits=st.dictionaries(st.sampled_from(["boots", "poll_ms"]), st.integers(1, 9)),
        )
    )  # fmt: skip
    expect = draw(
        some(
            {},
            outcome=st.one_of(st.none(), st.just("succeeded"), st.just(["succeeded", "rolled_back"])),
            reason=st.one_of(st.none(), st.sampled_from([r.value for r in Reason])),
            downtime=durations, converges=durations, untouched=st.booleans(), samples_lost=st.integers(0, 9),
            delivery=some({}, installs=st.integers(0, 3)),
            invariants=st.one_of(st.just("all"), st.lists(st.sampled_from([i.value for i in Invariant]), max_size=3)),
        )
    )  # fmt: skip
    more = draw(
        some({}, description=st.one_of(text, st.just("two\nlines\n"), words), proves=titles, tags=st.lists(names, max_size=2),
             seed=st.integers(0, 2**63 - 1), fleet=some({}, devices=st.integers(1, 99), online=shares))
    )  # fmt: skip
    rollbacks: list[Plain] = [
        {key: value for key, value in action.items() if key != "when"}
        for action in draw(st.lists(actions.filter(lambda action: action["action"] != "wait"), max_size=2))
    ]
    return {
        "title": draw(titles), **more, "bench": bench, "method": method, "rollbacks": rollbacks, "expect": expect,
    }  # fmt: skip


scenarios = files().map(Scenario.model_validate)
