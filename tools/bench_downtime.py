"""`make bench-downtime`: for how long an update keeps the client down, seen from outside, beside two floors.

Every 2 ms somebody new asks the client (`bench_downtime_probe.py`). The floors are taken in the same run, one round of
each beside one update: the client's own image stopped and started by hand (`same`), and a static program (`static`).

    success        the new version is good
    overlap        the same, with the new one standing by before the old one goes
    broken start   the new version crashes at its start
    sick           the new version never becomes healthy
    cut            everything is killed in the middle of the switch, engine included, and boots at once

`--quick` takes a tenth of the rounds; `--only docker/bridge` measures in one place. Writes var/bench/downtime.json and
downtime.svg. As root the engine is a private one, in a network of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from reference.client.images import write_client_folder
from reference.core.errors import BlackstartError
from reference.core.model import Image
from reference.oci.base import python_base
from reference.oci.build import build_image
from reference.oci.push import push_image
from reference.oci.references import parse_reference
from reference.support.processes import ROOT, ends_with_us
from tools.bench_downtime_grounds import (
    DockerGround,
    Ground,
    ProcessGround,
    fresh_network,
    why_no_engine,
)
from tools.bench_downtime_observer import Observer
from tools.bench_downtime_picture import picture
from tools.bench_downtime_rounds import Bench, Measured
from tools.bench_downtime_table import publish
from tools.machine import machine

N, N_OTHERS = 200, 50
OUT = ROOT / "var" / "bench"
VERSIONS: dict[str, tuple[str | None, bool]] = {
    "1.0.0": (None, False), "2.0.0": (None, False), "2.0.1": ("crash-on-start", False), "2.0.2": ("never-healthy", False),
    "3.0.0": (None, True), "4.0.0": (None, True),
}  # fmt: skip
"""Version -> defect, and whether it may overlap."""
NAME = "opc-client"


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A registry of our own; its host and port."""
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "reference.registry", "--data", str(folder / "registry"), "--port", "0", "--no-auth"],
            stdout=subprocess.PIPE, stderr=log, cwd=ROOT, preexec_fn=ends_with_us(),  # noqa: PLW1509 - it only calls prctl
        )  # fmt: skip
    try:
        assert process.stdout is not None, "opened with a pipe"
        yield f"127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    finally:
        process.terminate()
        process.wait()


def push(folder: Path, host: str) -> dict[str, Image]:
    """Build the versions and push them."""
    found, base = {}, python_base()
    for version, (defect, overlaps) in VERSIONS.items():
        write_client_folder(folder / version, version, defect)
        labels = {"blackstart.handover": "overlap"} if overlaps else None
        build_image(folder / version, folder / f"{version}.oci", version=version, base=base, labels=labels)
        target = parse_reference(f"{host}/{NAME}:{version}")
        found[version] = Image(
            f"{host}/{NAME}", push_image(folder / f"{version}.oci", target, plain_http=True), version
        )
    return found


GROUNDS: dict[str, Callable[[Path, str], Ground]] = {
    "process/host": ProcessGround,
    "docker/host": lambda folder, host: DockerGround(folder, host, "host"),
    "docker/bridge": lambda folder, host: DockerGround(folder, host, "bridge"),
}
STORIES = ("success", "broken start", "sick", "cut", "overlap")


def possible() -> list[str]:
    """Where can be measured here."""
    why = why_no_engine()
    if why:
        print(f"docker: not measured: {why}", file=sys.stderr)
    return [place for place in GROUNDS if not why or place.startswith("process")]


def measure(options: argparse.Namespace) -> Measured:
    """All that is wanted, one ground after the other."""
    found, began = Measured(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bsd-") as name, registry(Path(name)) as host:
        folder, observer = Path(name), Observer()
        images = push(folder, host)
        try:
            for place in options.only or possible():
                said = Said(place, began)
                (folder / place).parent.mkdir(exist_ok=True)
                ground = GROUNDS[place](folder / place, host)
                try:
                    bench = Bench(ground, images, observer, found, said)
                    bench.run(options.n, options.others, set(options.stories))
                finally:
                    keep_log(ground, options.keep)
                    ground.close()
        finally:
            observer.close()
            print(file=sys.stderr)
    return found


class Said:
    """Shows on standard error how far it is."""

    def __init__(self, place: str, began: float) -> None:
        self._place, self._began = place, began

    def __call__(self, text: str) -> None:
        """Show it in place of what was shown before."""
        seconds = time.monotonic() - self._began
        print(f"\r\033[K{seconds:5.0f} s  {self._place}  {text}", end="", file=sys.stderr, flush=True)


def keep_log(ground: Ground, folder: Path | None) -> None:
    """Copy the agent's log out of what will be removed."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ground.folder / "agent.log", folder / f"{ground.runtime}-{ground.network}.log")


def table(rows: list[dict[str, object]]) -> str:
    """For people."""
    titles = ("runtime", "network", "story", "n", "p50_ms", "p95_ms", "p95_ci", "max_ms",
              "same_image_floor_p95_ms", "ratio", "samples_lost_p95")  # fmt: skip
    lines = [titles, *([str(row[title]) for title in titles] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines
    )


def write(folder: Path, found: Measured) -> None:
    """The report, all values, and the picture."""
    report: dict[str, object] = {"machine": machine(), "rows": found.rows()}
    values = {
        " ".join(key): [round(value, 1) for value in series.times_ms] for key, series in found.series.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "downtime.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (folder / "downtime-values.json").write_text(json.dumps(values) + "\n", "utf-8")
    (folder / "downtime.svg").write_text(picture(machine(), found.series.values()), "utf-8")


def parsed() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="bench_downtime", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--n", type=int, default=N, help=f"rounds of success, of overlap and of the same-image floor ({N})")
    add("--others", type=int, default=N_OTHERS, help=f"rounds of each other story ({N_OTHERS})")
    add("--quick", action="store_true", help="a tenth of the rounds")
    add("--only", action="append", choices=sorted(GROUNDS), help="measure only here")
    add("--stories", nargs="+", choices=STORIES, default=list(STORIES), help="measure only these")
    add("--out", type=Path, default=OUT, help="folder for downtime.json and downtime.svg")
    add("--keep", type=Path, help="folder for the agents' logs")
    add(
        "--publish", action="store_true", help="put the numbers and the picture into docs/ and README.md, too"
    )
    options = parser.parse_args()
    if options.quick:
        options.n, options.others = max(2, options.n // 10), max(2, options.others // 10)
    return options


def main() -> None:
    """Measure, write, show."""
    options = parsed()
    fresh_network(["-m", "tools.bench_downtime", *sys.argv[1:]])
    found = measure(options)
    write(options.out, found)
    if options.publish:
        publish(options.out)
    print(table(found.rows()))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("bench_downtime: interrupted; everything was taken down") from None
    except BlackstartError as error:
        raise SystemExit(f"bench_downtime: {error}") from error
