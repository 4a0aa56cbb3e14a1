"""A canvas for matplotlib whose SVG can stand inside a page: small, themed, deterministic, with its table.

matplotlib writes colours as inline styles, which a strict Content-Security-Policy refuses and which know no dark
mode. `Canvas.svg` turns them into presentation attributes and replaces our few colours by the page's variables
(`var(--run,#0072b2)`), with the light colour as the fallback. Text stays text; coordinates keep one decimal; ids are
prefixed by the chart's name, so that two charts in one page cannot clash. Sizes are in CSS pixels.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard
from xml.etree import ElementTree

from metier.core.page import label, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUN, BASE, FLOOR, INK, LINE, PAPER = "#0072b2", "#b45f06", "#5b6670", "#1a1f26", "#d8dee4", "#fefefe"
_THEME = {
    RUN: f"var(--run,{RUN})",
    BASE: f"var(--base,{BASE})",
    FLOOR: f"var(--floor,{FLOOR})",
    LINE: f"var(--line,{LINE})",
    PAPER: f"var(--paper,{PAPER})",
    INK: "currentColor",
}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "metier",
    "text.parse_math": False,  # a `$` in a label is a dollar
    "font.size": 12.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "path.simplify": True,
}
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture and what stands behind it.

    `alt` is what a reader who cannot see it is told; `header` and `rows` are the same figures as a table.
    """

    name: str
    title: str
    alt: str
    svg: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


class Canvas:
    """One axes of the given size and margins (left, right, top, bottom), in pixels; use as a context manager.

    A `fluid` picture shrinks with a narrow page; one that would become illegible keeps its size and scrolls.
    """

    def __init__(self, width: int, height: int, margins: tuple[int, int, int, int], *, fluid: bool = True) -> None:
        self.width, self.height, self.margins = width, height, margins
        self.kind = "chart" if not fluid else "chart wide" if width > 400 else "chart small"

    def __enter__(self) -> Canvas:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self._context = matplotlib.rc_context(_SETTINGS)
        self._context.__enter__()
        left, right, top, bottom = self.margins
        self._figure = Figure(figsize=(self.width / 72, self.height / 72), dpi=72)
        FigureCanvasSVG(self._figure)
        self.axes: Axes = self._figure.add_axes(
            (
                left / self.width,
                bottom / self.height,
                (self.width - left - right) / self.width,
                (self.height - top - bottom) / self.height,
            )
        )
        self.axes.patch.set_visible(False)
        self._figure.patch.set_visible(False)
        for side in ("top", "right"):
            self.axes.spines[side].set_visible(False)
        self.axes.tick_params(length=0, pad=5)
        return self

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(None, None, None)

    def rows(self, names: Sequence[str]) -> None:
        """Name the horizontal rows 0…n−1, the first on top."""
        self.axes.set_yticks(range(len(names)), [""] * len(names))
        for row, name in enumerate(names):
            lines = name.split("\n")
            for index, line in enumerate(lines):
                # One text per line, each anchored at its end: the browser's font is not the one that measured.
                self.axes.annotate(
                    line,
                    (0, row),
                    xytext=(-6, 7 * (len(lines) - 1 - 2 * index)),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    annotation_clip=False,
                )
        self.axes.set_ylim(len(names) - 0.4, -0.6)
        self.axes.grid(visible=False, axis="y")
        self.axes.spines["left"].set_visible(False)

    def legend(self, columns: int = 3) -> None:
        """Put the legend above the axes, left."""
        self.axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=columns,
            borderaxespad=0.2,
            handlelength=1.6,
            columnspacing=1.4,
        )

    def svg(self, name: str, alt: str) -> str:
        """Return the picture as an SVG element for a page."""
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # The reader's browser has the glyph; matplotlib only measures with its own font.
            warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
            warnings.filterwarnings("ignore", message="Matplotlib currently does not support", category=UserWarning)
            self._figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return _tidy(buffer.getvalue(), name, alt, self.kind)


# ───────────────────────────────────────────────────────────────────────────── names and margins


def real(value: float | None) -> TypeGuard[float]:
    """Return whether there is a finite value to draw."""
    return value is not None and math.isfinite(value)


def left_margin(names: Sequence[str]) -> int:
    """Return the left margin in pixels that the longest name needs."""
    return min(290, 20 + round(6.6 * max(len(line) for name in names for line in name.split("\n"))))


def wrapped(name: str) -> str:
    """Return a name of at most 44 columns on one or two lines."""
    return "\n".join(textwrap.wrap(label(name, 44), 24)[:2])


# ───────────────────────────────────────────────────────────────────────────── from a file to an element


def _tidy(data: bytes, name: str, alt: str, kind: str) -> str:
    root = ElementTree.fromstring(data)
    for child in list(root):
        if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}defs"):
            root.remove(child)  # the licence block, and a style sheet that would reach the whole page
    for element in root.iter():
        _plain_attributes(element, name)
    used = set(re.findall(r"#([\w.-]+)", " ".join(v for e in root.iter() for v in e.attrib.values())))
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        element.tail = None
        element.text = element.text if element.tag == f"{{{_SVG}}}text" else None
    _unwrap(root)
    box = root.get("viewBox", "0 0 100 100")
    root.attrib.clear()
    width, height = box.split()[2:]
    root.attrib.update(
        {
            "class": kind,
            "viewBox": box,
            "width": width,
            "height": height,
            "role": "img",
            "aria-label": visible(alt),
            "stroke-linejoin": "round",
        }
    )
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _plain_attributes(element: ElementTree.Element, name: str) -> None:
    """Turn `style` into attributes, theme the colours, shorten the numbers and prefix the ids, in place."""
    style = element.attrib.pop("style", "")
    for declaration in filter(None, style.split(";")):
        key, _, value = declaration.partition(":")
        if key.strip() not in ("font-family",):
            element.set(key.strip(), value.strip())
    if _XLINK in element.attrib:
        element.set("href", element.attrib.pop(_XLINK))
    for key, value in list(element.attrib.items()):
        if key in ("fill", "stroke"):
            element.set(key, _THEME.get(value.lower(), value))
        elif key == "id":
            element.set(key, f"{name}-{value}")
        elif key == "href":
            element.set(key, f"#{name}-{value[1:]}")
        elif key == "clip-path":
            element.set(key, value.replace("#", f"#{name}-"))
        elif key == "transform" and value.startswith("rotate(-0 "):
            del element.attrib[key]
        elif key in ("d", "x", "y", "width", "height", "transform"):
            element.set(
                key, re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), " ".join(value.split()))
            )


def _unwrap(element: ElementTree.Element) -> None:
    """Replace groups without attributes by their children: half of what matplotlib writes."""
    for child in list(element):
        _unwrap(child)
    children: list[ElementTree.Element] = []
    for child in element:
        children.extend(child if child.tag == f"{{{_SVG}}}g" and not child.attrib else [child])
    element[:] = children
