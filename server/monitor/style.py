"""How the page looks: one sheet, quiet colours, tables first; dark where the reader's system is."""

from __future__ import annotations

from typing import Final

CSS: Final = """
:root { --ink: #1d2733; --soft: #5c6b7a; --line: #dfe5ea; --page: #f5f7f9; --card: #fff; --root: #2f6f5e;
        --good: #2f6f5e; --good-ground: #e3f1ec; --busy: #2c5ea8; --busy-ground: #e5edf9;
        --bad: #a8322a; --bad-ground: #fbe9e7; --idle: #55626f; --idle-ground: #eceff2; --warn: #835800;
        --warn-ground: #fbf0d9 }
@media (prefers-color-scheme: dark) { :root {
        --ink: #e2e8ee; --soft: #97a5b3; --line: #2b3641; --page: #12181e; --card: #1a222a; --root: #63b39d;
        --good: #7ecbb5; --good-ground: #1c3731; --busy: #95bbf2; --busy-ground: #1f3150;
        --bad: #f29b93; --bad-ground: #43211e; --idle: #a6b2bd; --idle-ground: #28323c; --warn: #e6c073;
        --warn-ground: #3b3019 } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, sans-serif }
.nicegui-content { padding: 0 !important; display: block !important }
.house { max-width: 1180px; margin: 0 auto; padding: 0 1.25rem 3rem }
.top { display: flex; flex-wrap: wrap; align-items: center; gap: .35rem 1.5rem; padding: 1.1rem 0 1rem }
.top h1 { margin: 0; font-size: 1.15rem; line-height: 1.3; font-weight: 650; letter-spacing: 0 }
.top h1 span { color: var(--soft); font-weight: 400 }
.top nav { display: flex; gap: .25rem; margin-right: auto }
.top nav a { padding: .3rem .7rem; border-radius: 7px; color: var(--soft); text-decoration: none; font-weight: 550 }
.top nav a:hover { color: var(--ink) }
.top nav a[aria-current] { color: var(--ink); background: var(--idle-ground) }
.top form { margin: 0 } .top button { border: 0; background: none; color: var(--soft); font: inherit; cursor: pointer;
        padding: .3rem 0; text-decoration: underline; text-underline-offset: 3px }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(12, minmax(0, 1fr)) }
.card { grid-column: span 12; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
        padding: 1.1rem 1.25rem; min-width: 0 }
.stack { grid-column: span 12; display: flex; flex-direction: column; gap: 1rem; min-width: 0 }
@media (min-width: 860px) {
  .half { grid-column: span 6 } .wide { grid-column: span 8 } .narrow, .stack.narrow { grid-column: span 4 } }
.grow { flex-grow: 1 }
h2 { margin: 0; font-size: 1.02rem; line-height: 1.4; font-weight: 650; letter-spacing: 0 }
.title { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .75rem }
.card p { margin: .35rem 0 0 } .soft { color: var(--soft) }
.card h2 + .scroll, .card .title + .scroll, .card p + .scroll { margin-top: .6rem }
.scroll { overflow-x: auto }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
th { text-align: left; font-weight: 550; font-size: .82rem; color: var(--soft); white-space: nowrap }
th, td { padding: .42rem 1.4rem .42rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
tr:last-child td { border-bottom: 0 } td { white-space: nowrap } td.long { white-space: normal; min-width: 14rem }
.num { text-align: right } td:last-child, th:last-child { padding-right: 0 }
.card a { color: var(--root); font-weight: 550 }
code { font: .87em ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace }
.pill { display: inline-block; padding: .08rem .6rem; border-radius: 99px; font-size: .82rem; font-weight: 600;
        white-space: nowrap; color: var(--idle); background: var(--idle-ground) }
.pill.finished, .pill.closed, .pill.answered, .pill.waiting { color: var(--good); background: var(--good-ground) }
.pill.running, .pill.open, .pill.fixed, .pill.asked { color: var(--busy); background: var(--busy-ground) }
.pill.stopped, .pill.declined { color: var(--bad); background: var(--bad-ground) }
.pill.lost { color: var(--warn); background: var(--warn-ground) }
.bar { height: 8px; margin: .9rem 0 .1rem; border-radius: 99px; background: var(--idle-ground); overflow: hidden }
.bar i { display: block; height: 100%; border-radius: 99px; background: var(--root); transition: width .4s }
.stage { min-height: 1.5em }
.callout { margin-top: .9rem; padding: .75rem 1rem; border-radius: 9px; background: var(--bad-ground) }
.callout p:first-child { margin-top: 0 } .callout strong { color: var(--bad) }
.tiles { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem 1.25rem; margin: 1rem 0 0;
        padding-top: 1.1rem; border-top: 1px solid var(--line) }
@media (min-width: 560px) { .tiles { grid-template-columns: repeat(4, minmax(0, 1fr)) } }
@media (min-width: 1080px) { .tiles { grid-template-columns: repeat(8, minmax(0, 1fr)) } }
.tile dt { font-size: .82rem; color: var(--soft); font-weight: 550 }
.tile dd { margin: 0; font-size: 1.35rem; font-weight: 650; line-height: 1.35; font-variant-numeric: tabular-nums }
.tile small { display: block; font-size: .78rem; font-weight: 400; line-height: 1.35; color: var(--soft) }
.empty { padding: 1.4rem 0 .8rem; color: var(--soft) } .empty p:first-child { margin-top: 0 }
.plot { height: 230px; width: 100%; margin-top: .7rem } .plot.tall { height: 260px }
@media (max-width: 620px) { th, td { padding-right: .9rem } td.long { min-width: 11rem } .card { padding: 1rem } }
.broken { margin: 0 0 1rem; padding: .75rem 1rem; border-radius: 9px; background: var(--warn-ground);
        color: var(--warn) }
"""
