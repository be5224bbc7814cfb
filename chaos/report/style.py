"""How the pages look: one style sheet, light and dark, without anything from elsewhere."""

from __future__ import annotations

from chaos.report.text import esc

STYLE = """
:root { color-scheme: light dark; --bg: #fbfbfa; --card: #ffffff; --ink: #1c2530; --soft: #566372; --line: #dde2e8;
  --faint: #eef1f4; --link: #14598f; --pass: #1f7a45; --fail: #b3203a; --unknown: #8a6100; --skipped: #566372;
  --pass-bg: #e3f4e9; --fail-bg: #fbe5e8; --unknown-bg: #fbf0d6; --skipped-bg: #eceff2; --grid: #e6eaef;
  --fault: #6b4fa0; --fault-ink: #ffffff; --lead: #c9bce3; --down: #cc3f53; --down-line: #8f1f31;
  --on-v: #ffffff; --v0: #2f7d55; --v1: #2f6d9f; --v2: #8a5a9c; --v3: #20808a; --tick-a: #14598f; --tick-b: #3f9468; --tick-c: #9aa5b1; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #12171d; --card: #1a2129; --ink: #e6ebf0; --soft: #9fadbb; --line: #303a45; --faint: #222b34;
    --link: #7db8e8; --pass: #6fce96; --fail: #ff8b9b; --unknown: #e8bd5a; --skipped: #9fadbb; --pass-bg: #163526;
    --fail-bg: #46202a; --unknown-bg: #3d3115; --skipped-bg: #2a333d; --grid: #2a333d; --fault: #9a7fd1;
    --fault-ink: #14101d; --lead: #574683; --down: #e05a6d; --down-line: #ffb3bd; --on-v: #0d1318; --v0: #4fa97b; --v1: #5799cf;
    --v2: #b083c4; --v3: #3fa7b2; --tick-a: #7db8e8; --tick-b: #6fce96; --tick-c: #5f6d7b; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); background: var(--bg);
  margin: 0; }
main { max-width: 1120px; margin: 0 auto; padding: 1.6rem 1.2rem 4rem; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .3rem; } h2 { font-size: 1.12rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .2rem; } p { margin: .3rem 0; } .soft { color: var(--soft); }
a { color: var(--link); } a:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
code, pre { font: .88em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem;
  overflow-x: auto; margin: .4rem 0; }
.badge { display: inline-block; font-weight: 650; font-size: .82rem; padding: .08rem .55rem; border-radius: 999px;
  white-space: nowrap; }
.badge.pass { color: var(--pass); background: var(--pass-bg); } .badge.fail { color: var(--fail); background: var(--fail-bg); }
.badge.unknown { color: var(--unknown); background: var(--unknown-bg); }
.badge.skipped { color: var(--skipped); background: var(--skipped-bg); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); gap: .6rem; margin: 1.1rem 0 0; padding: 0; list-style: none; }
.cards li { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .55rem .8rem; }
.cards .what { display: block; color: var(--soft); font-size: .8rem; } .cards .value { font-size: 1.15rem; font-weight: 620;
  font-variant-numeric: tabular-nums; }
.cards .pass { color: var(--pass); } .cards .fail { color: var(--fail); } .cards .unknown { color: var(--unknown); }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; } caption { text-align: left; padding: .5rem .8rem;
  color: var(--soft); font-size: .86rem; }
th, td { text-align: left; vertical-align: top; padding: .38rem .8rem; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
thead th { border-top: 0; color: var(--soft); font-weight: 600; font-size: .82rem; white-space: nowrap;
  overflow-wrap: normal; } tbody th { font-weight: 560; } .n { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; } .nowrap { white-space: nowrap; } .said { min-width: 15rem; }
tr.fail td, tr.fail th { background: var(--fail-bg); } tr.unknown td, tr.unknown th { background: var(--unknown-bg); }
tr.fail .badge, tr.unknown .badge { background: var(--card); } th small { font-size: .88rem; font-weight: 400; }
.box { border: 1px solid var(--line); border-left: 4px solid var(--unknown); background: var(--card); border-radius: 8px;
  padding: .6rem .9rem; margin: 1.1rem 0 0; } .box.fail { border-left-color: var(--fail); }
.box ul { margin: .3rem 0 0; padding-left: 1.2rem; }
details { margin-top: .8rem; } summary { cursor: pointer; color: var(--link); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .4rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.tags { list-style: none; display: inline; padding: 0; margin: 0; } .tags li { display: inline-block; font-size: .8rem;
  color: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: 0 .4rem; margin-right: .3rem; }
figure { margin: .4rem 0 0; } figure .wide { padding: .5rem .6rem .2rem; } svg { display: block; width: 100%;
  min-width: 760px; height: auto; } figcaption { color: var(--soft); font-size: .86rem; margin: .2rem 0; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--ink); } svg .t-soft { fill: var(--soft); }
svg .lane { fill: var(--faint); } svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--soft); }
svg .mark { stroke: var(--soft); stroke-dasharray: 2 3; } svg .edge { stroke: var(--soft); stroke-dasharray: 5 3; }
svg .on-dark { fill: #fff; } svg .on-light { fill: #1c2530; } svg .on-version { fill: var(--on-v); }
svg rect.bar { stroke: var(--card); stroke-width: .8; }
svg .p-accepted { fill: #c3d1e3; } svg .p-pulling { fill: #86addb; } svg .p-staged { fill: #4a78b5; }
svg .p-switching { fill: #e9a422; } svg .p-verifying { fill: #f2d071; } svg .p-committing { fill: #2a7a4c; }
svg .p-rolling_back { fill: #c23a4d; } svg .p-cleaning_up { fill: #b7bcc6; } svg .p-idle { fill: none; }
svg .v0 { fill: var(--v0); } svg .v1 { fill: var(--v1); } svg .v2 { fill: var(--v2); } svg .v3 { fill: var(--v3); }
svg .down { fill: var(--down); } svg .hatch-line { stroke: var(--down-line); stroke-width: 1.6; }
svg .fault { fill: var(--fault); } svg .on-fault { fill: var(--fault-ink); } svg .lead { fill: var(--lead); }
svg .unproved { fill: none; stroke: var(--fault); stroke-dasharray: 4 2; }
svg .a-open { fill: #86addb; } svg .a-good { fill: #2a7a4c; } svg .a-bad { fill: #c23a4d; } svg .a-other { fill: #b7bcc6; }
svg .a-away { fill: none; stroke: var(--down); stroke-dasharray: 3 2; } svg .c-one { fill: var(--tick-c); opacity: .55; }
svg .c-none { fill: var(--down); opacity: .55; } svg .c-many { fill: #e9a422; } svg .samples { fill: var(--v1); opacity: .55; }
svg .to-device { stroke: var(--tick-a); } svg .to-broker { stroke: var(--tick-b); } svg .to-other { stroke: var(--tick-c); }
.key { display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .82rem; color: var(--soft); margin: .5rem 0 0; padding: 0;
  list-style: none; } .key svg { display: inline-block; width: 14px; min-width: 14px; height: 11px; margin-right: .3rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .86rem; }
.more { color: var(--fail); } .less { color: var(--pass); }
@media print { body { background: #fff; } .wide { overflow: visible; } details { display: block; } }
"""


def page(title: str, body: str) -> str:
    """A whole page. `body` is HTML; `title` is text."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n<title>{esc(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        '<meta name="color-scheme" content="light dark"/>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def badge(verdict: str) -> str:
    """A verdict as a coloured word."""
    return f'<span class="badge {esc(verdict)}">{esc(verdict)}</span>'


def card(what: str, value: str, kind: str = "") -> str:
    """One number of the summary. `value` is text."""
    return (
        f'<li><span class="what">{esc(what)}</span><span class="value {esc(kind)}">{esc(value)}</span></li>'
    )


def table(caption: str, heads: list[tuple[str, bool]], rows: list[str]) -> str:
    """A table. `heads`: text, and whether its column is of numbers; `rows` are HTML."""
    kinds = {True: ' class="n"', False: ""}
    head = "".join(f'<th scope="col"{kinds[n]}>{esc(text)}</th>' for text, n in heads)
    return (
        f'<div class="wide"><table><caption>{esc(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
