"""Parts of a page: sections, tables, legends, and the page itself.  Text is escaped here; ``inner`` parts are HTML."""

from __future__ import annotations

from collections.abc import Sequence

from commonroot.client.drawing.charts import esc
from commonroot.client.drawing.template import MARK, PAGE, STYLE


def page(*, title: str, headline: str, subtitle: str, body: str, footer: str) -> str:
    """One self-contained file; ``subtitle``, ``body`` and ``footer`` are HTML."""
    return PAGE.substitute(
        title=esc(title), style=STYLE, mark=MARK, headline=esc(headline), subtitle=subtitle, body=body, footer=footer
    )


def size(count: int) -> str:
    """Bytes in units of 1,000, as network people count them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def cell(value: object, kind: str = "") -> str:
    """One cell; ``kind`` is a class of the style, ``n`` for numbers."""
    return f'<td class="{kind}">{esc(value)}</td>' if kind else f"<td>{esc(value)}</td>"


def html_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int]) -> str:
    """A table that scrolls where it is too wide.

    rows     lists of whole cells, as HTML
    numeric  columns that hold numbers
    """
    marks = ['class="n" ' if at in numeric else "" for at in range(len(head))]
    top = "".join(f'<th {mark}scope="col">{esc(name)}</th>' for mark, name in zip(marks, head, strict=True))
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    label = esc(caption)
    table = f'<table aria-label="{label}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'


def section(title: str, lead: str, *parts: str) -> str:
    """A part of the page under a heading, with a sentence that says what is seen."""
    return f'<section><h2>{esc(title)}</h2><p class="lead">{esc(lead)}</p>{"".join(parts)}</section>'


def chart(svg: str) -> str:
    """A picture that scrolls where it is too wide."""
    return f'<div class="chart scroll">{svg}</div>'


def details(summary: str, inner: str) -> str:
    """Folded away until somebody asks."""
    return f"<details><summary>{esc(summary)}</summary>{inner}</details>"


def _bar(kind: str) -> str:
    return f'<rect x="1" y="1" width="22" height="10" rx="2" class="{kind}"/>'


_SWATCHES = {
    "better": '<path d="M1 6h22" class="whisker better"/><circle cx="12" cy="6" r="5" class="dot better"/>',
    "undecided": '<path d="M1 6h22" class="whisker undecided"/><circle cx="12" cy="6" r="4.5" class="dot undecided"/>',
    "worse": '<path d="M1 6h22" class="whisker worse"/><path d="M12 1l5 5l-5 5l-5 -5z" class="dot worse"/>',
    "alone": _bar("bar alone"),
    "federated": _bar("bar federated"),
    "chosen": _bar("bar chosen"),
    "training": '<path d="M1 6h22" class="line l"/>',
    "held out": '<path d="M1 6h22" class="line h"/>',
    "everybody in the sum": _bar("bar federated"),
    "somebody missing": _bar("bar short"),
}


def legend(*names: str) -> str:
    """What marks and lines mean, of those that there are."""
    items = (f'<li><svg viewBox="0 0 24 12" aria-hidden="true">{_SWATCHES[name]}</svg>{name}</li>' for name in names)
    return f'<ul class="legend">{"".join(items)}</ul>'
