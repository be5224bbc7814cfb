"""The report as JUnit XML, as continuous integration reads it: a suite for each scenario, with one test in it.

`failure`: the verdict is fail. `error`: it is unknown. `skipped`: a real part is missing, and the message says which.
"""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from chaos.report.page import command
from chaos.report.text import clean
from chaos.result import Report, RunResult
from chaos.verdict import Ended, Verdict

_CHILD = {Ended.FAIL: "failure", Ended.UNKNOWN: "error", Ended.SKIPPED: "skipped"}
_OF = {Ended.FAIL: Verdict.FAIL, Ended.UNKNOWN: Verdict.UNKNOWN}


def junit(report: Report) -> bytes:
    """The file's content."""
    about = {"name": "blackstart chaos", "time": f"{report.seconds:.3f}"}
    root = ET.Element("testsuites", {**about, **_counts(report.runs)})
    for run in report.runs:
        root.append(_suite(run))
    ET.indent(root)
    body: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return body + b"\n"


def _counts(runs: list[RunResult]) -> dict[str, str]:
    ended = [run.ended for run in runs]
    counts = {"failures": Ended.FAIL, "errors": Ended.UNKNOWN, "skipped": Ended.SKIPPED}
    return {"tests": f"{len(runs)}", **{name: f"{ended.count(kind)}" for name, kind in counts.items()}}


def _suite(run: RunResult) -> ET.Element:
    began = datetime.fromtimestamp(run.began_wall_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    about = {
        "name": clean(run.name), "timestamp": began, "hostname": "localhost", "time": f"{run.seconds:.3f}",
    }  # fmt: skip
    suite = ET.Element("testsuite", {**about, **_counts([run])})
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(run).items():
        ET.SubElement(properties, "property", name=name, value=clean(value))
    case = ET.SubElement(
        suite, "testcase", classname="chaos", name=clean(run.name), time=f"{run.seconds:.3f}"
    )
    if (child := _CHILD.get(run.ended)) is not None:
        message, text = _wrong(run)
        ET.SubElement(case, child, message=clean(message), type=run.ended.value).text = clean(text)
    ET.SubElement(suite, "system-out").text = clean(_said(run))
    ET.SubElement(suite, "system-err")
    return suite


def _properties(run: RunResult) -> dict[str, object]:
    fired = sum(bool(f.fired) and not f.failed for f in run.faults)
    found: dict[str, object] = {
        "title": run.title, "file": run.file, "seed": run.seed, "runtime": run.runtime, "proves": run.proves,
        "faults": len(run.faults), "faults-fired": fired, "version": run.version, "machine": run.machine,
    }  # fmt: skip
    for device in run.devices:
        measured = {
            "downtime-ms": device.downtime_ms,
            "rollback-ms": device.rollback_ms,
            "outcome": device.outcome,
        }
        found |= {
            f"{device.device}.{what}": value for what, value in measured.items() if value not in (None, "")
        }
    return found


def _wrong(run: RunResult) -> tuple[str, str]:
    """One line, and all of them."""
    bad = [f for f in run.findings if f.verdict is _OF.get(run.ended)]
    lines = [
        f"{f.checker}{f' on {f.device}' if f.device else ''}: expected {f.expected}; measured {f.measured}"
        for f in bad
    ]
    if run.reason:
        lines.insert(0, run.reason)
    return (lines[0] if lines else run.ended.value), "\n".join([*lines, "", f"Again: {command(run)}"])


def _said(run: RunResult) -> str:
    findings = [
        f"{f.verdict.value:8}{f.checker}{f' on {f.device}' if f.device else ''}: {f.measured}"
        for f in run.findings
    ]
    faults = [
        f"fault {f.label} {f.nth}: {f.fired or f.failed or 'not shown to have fired'}" for f in run.faults
    ]
    return "\n".join([*findings, *faults])
