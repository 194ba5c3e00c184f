"""The report's page: one file, no script, nothing fetched; the content policy in its head forbids both."""

from __future__ import annotations

from string import Template

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f6f5f1; --card: #ffffff; --ink: #1d2421; --soft: #5c6862; --line: #e2e2da; --grid: #ecebe4;
  --alone: #a7aea9; --federated: #3f72c9; --chosen: #1b7f5c; --worse: #c2501b; --wash: #eaf4ef;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121614; --card: #1b211e; --ink: #e8ece9; --soft: #9daaa3; --line: #2d3531; --grid: #28302c;
    --alone: #77817b; --federated: #7aa5f0; --chosen: #4cc196; --worse: #f08a57; --wash: #1c2e27;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 44px 24px 64px; }
header { display: grid; grid-template-columns: auto 1fr; gap: 4px 18px; align-items: center; margin-bottom: 28px; }
header svg { width: 52px; height: 52px; grid-row: span 2; }
h1 { font-size: 1.85rem; line-height: 1.2; margin: 0; letter-spacing: -0.015em; text-wrap: balance; }
header p { margin: 0; color: var(--soft); }
h2 { font-size: 1.12rem; margin: 0 0 4px; letter-spacing: -0.005em; }
.lead { margin: 0 0 16px; color: var(--soft); font-size: 0.93rem; max-width: 92ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 20px; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.tile { padding: 14px 18px 12px; margin: 0; display: flex; flex-direction: column-reverse;
  justify-content: flex-end; font-variant-numeric: tabular-nums; }
.tile dd { margin: 0; font-size: 1.6rem; font-weight: 650; letter-spacing: -0.02em; }
.tile dt { color: var(--soft); font-size: 0.83rem; }
.tile.good dd { color: var(--chosen); } .tile.bad dd { color: var(--worse); }
section { padding: 22px 24px; margin: 0 0 20px; min-width: 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; }
@media (max-width: 860px) { .pair { grid-template-columns: 1fr; gap: 0; } main { padding: 24px 12px 40px; } }
.scroll { overflow-x: auto; }
.chart svg { display: block; width: 100%; min-width: 760px; height: auto; }
.pair .chart svg { min-width: 380px; }
text { font-family: inherit; fill: var(--ink); font-size: 13px; font-variant-numeric: tabular-nums; }
.tick, .axis { fill: var(--soft); font-size: 12px; }
.name { font-size: 13.5px; } .value { font-weight: 650; }
.inside { fill: var(--card); font-size: 12px; } .mid { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--grid); } .zero { stroke: var(--soft); stroke-width: 1.2; }
.whisker { stroke-width: 2; } .whisker.better { stroke: var(--chosen); } .whisker.worse { stroke: var(--worse); }
.whisker.undecided { stroke: var(--alone); }
.dot { stroke-width: 2; } .dot.better { fill: var(--chosen); stroke: var(--chosen); }
.dot.worse { fill: var(--worse); stroke: var(--worse); } .dot.undecided { fill: var(--card); stroke: var(--soft); }
.value.better { fill: var(--chosen); } .value.worse { fill: var(--worse); } .value.undecided { fill: var(--soft); }
.bar.alone { fill: var(--alone); } .bar.federated { fill: var(--federated); } .bar.chosen { fill: var(--chosen); }
.bar.lossy { fill: var(--card); }
.bar.short { fill: url(#hatch); } .hatch { stroke: var(--federated); stroke-width: 3.2; }
.line { fill: none; stroke-width: 2.6; stroke-linejoin: round; stroke-linecap: round; }
.line.l { stroke: var(--alone); stroke-dasharray: 7 5; } .line.h { stroke: var(--chosen); }
.line.worse { stroke: var(--worse); stroke-dasharray: 2 5; } .band { fill: var(--chosen); fill-opacity: 0.16; }
.cell { fill: var(--federated); stroke: var(--line); } .cell.right { fill: var(--chosen); }
h3 { font-size: 0.98rem; margin: 14px 0 4px; font-weight: 600; }
.spot.l { fill: var(--alone); } .spot.h { fill: var(--chosen); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 12px; padding: 0; list-style: none;
  color: var(--soft); font-size: 0.86rem; }
.legend svg { width: 24px; height: 12px; margin-right: 7px; vertical-align: -1px; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 8px 12px; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 550; white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
tbody th { font-weight: 600; } td.n, th.n { text-align: right; white-space: nowrap; }
td.better { color: var(--chosen); font-weight: 600; } td.worse { color: var(--worse); font-weight: 600; }
td.why { color: var(--soft); min-width: 20ch; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--soft); font-size: 0.88rem; }
summary:focus-visible { outline: 2px solid var(--federated); outline-offset: 3px; border-radius: 4px; }
details table { margin-top: 8px; }
code { font: 0.86em ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.note { margin: 14px 0 0; padding: 10px 14px; border-radius: 8px; background: var(--wash); font-size: 0.9rem; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 6px 20px; margin: 0; font-size: 0.92rem; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; }
footer { color: var(--soft); font-size: 0.84rem; padding: 4px 2px; }
@media print { body { background: none; } section, .tile { break-inside: avoid; } main { padding: 0; } }
"""

#: Departments above, one root below.
MARK = """<svg viewBox="0 0 52 52" aria-hidden="true"><g fill="none" stroke="var(--chosen)" stroke-width="3"
 stroke-linecap="round"><path d="M9 11C9 28 26 24 26 43M26 11V43M43 11C43 28 26 24 26 43"/></g><g fill="var(--chosen)">
<circle cx="9" cy="10" r="5"/><circle cx="26" cy="10" r="5"/><circle cx="43" cy="10" r="5"/>
<circle cx="26" cy="44" r="6"/></g></svg>"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<header>
$mark
<h1>$headline</h1>
<p>$subtitle</p>
</header>
$body
<footer>$footer</footer>
</main>
</body>
</html>
""")
