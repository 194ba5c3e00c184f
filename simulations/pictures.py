"""The report's charts as pictures of their own, for notebooks and files: SVG that brings its style along."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from commonroot.client.drawing.charts import WIDTH, esc, short
from commonroot.client.drawing.template import STYLE
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write

_VIEW: Final = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')
_FONT: Final = (
    'svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }'
)
_MARGIN: Final = 16
_TITLE: Final = 30
#: Charts up to this width may share a row.
_NARROW: Final = 480


class Picture:
    """A chart that shows itself in a notebook.

    svg  one whole document: nothing outside it has a say in how it looks
    """

    def __init__(self, panels: Sequence[tuple[str, str]]) -> None:
        """``panels``: titles and charts, one below the other."""
        self.svg = _document(panels)

    def save(self, path: str | Path) -> Path:
        """Write it as ``.svg``, or as an ``.html`` page with nothing else on it; the path."""
        path = Path(path)
        if path.suffix not in (".svg", ".html"):
            raise ConfigError(f"{path}: a picture is saved as .svg or .html")
        body = f'<!doctype html><meta charset="utf-8"><title>{esc(path.stem)}</title>{self.svg}'
        atomic_write(path, (self.svg if path.suffix == ".svg" else body).encode())
        return path

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Picture of {len(self.svg):,} letters of SVG: the last line of a cell shows it, save(path) writes it"


def _document(panels: Sequence[tuple[str, str]]) -> str:
    """One SVG document with every chart in it, under its title; narrow ones stand two in a row."""
    parts: list[str] = []
    left, top, row, widest = float(_MARGIN), float(_MARGIN), 0.0, 0.0
    for title, chart in panels:
        found = _VIEW.search(chart)
        if found is None:
            continue
        width, tall = float(found[1]), float(found[2])
        if left > _MARGIN and (width > _NARROW or left + width > WIDTH + 3 * _MARGIN):
            left, top, row = float(_MARGIN), top + row, 0.0
        parts.append(f'<text x="{left:g}" y="{top + 14:g}" class="value">{esc(short(title, 62))}</text>')
        placed = f'<svg x="{left:g}" y="{top + _TITLE:g}" width="{width:g}" height="{tall:g}" '
        parts.append(chart.replace("<svg ", placed, 1))
        left += width + _MARGIN
        row = max(row, _TITLE + tall + _MARGIN)
        widest = max(widest, left)
    height = top + row
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {widest:g} {height:g}" width="{widest:g}" '
        f'height="{height:g}"><style>{esc_style(STYLE + _FONT)}</style>'
        f'<rect width="100%" height="100%" fill="var(--card)"/>{"".join(parts)}</svg>'
    )


def esc_style(text: str) -> str:
    """A style sheet as it may stand in XML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
