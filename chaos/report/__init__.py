"""What people and machines get of a run: a page with a picture, JSON, JUnit XML, Chaos Toolkit's journal; and of several.

    write_run(result, history, folder, scenario)        -> result.json, report.html, journal.json
    write_all(report, folder, earlier)                  -> report.json, junit.xml, index.html

Pages are self-contained: no script, nothing from elsewhere, light and dark.
"""

from __future__ import annotations

from chaos.report.compared import Change, Compared, compare
from chaos.report.write import read_report, write_all, write_run

__all__ = ["Change", "Compared", "compare", "read_report", "write_all", "write_run"]
