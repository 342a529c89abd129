"""Predicted masks as one HTML page that needs nothing else: no script, no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from fungistore.markup import html_page
from fungistore.quantities import counted

if TYPE_CHECKING:
    from fungistore.segmentation.segment import SegmentedImage, SegmentResult

STYLE = """
h2 { font-size: 15px; margin: 0; overflow-wrap: anywhere; }
.image { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px; margin: 0 0 20px; }
.panels { display: grid; gap: 14px; margin: 12px 0;
  grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; display: block; border-radius: 8px; }
figcaption { color: var(--faint); font-size: 13px; margin-top: 4px; }
ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 6px 14px; }
li { overflow-wrap: anywhere; font-size: 13px; font-variant-numeric: tabular-nums; }
.colour { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
  border: 1px solid var(--line); vertical-align: -1px; }
.faint { color: var(--faint); font-size: 13px; }
"""

Panel = tuple[str, str]  # what a picture shows, and the picture's HTML
Colours = Mapping[str, Sequence[int]]  # of the classes, by name


def section(one: SegmentedImage, panels: Sequence[Panel], colours: Colours) -> str:
    """Return an image's part of the page: its pictures, and what is in it."""
    figures = "".join(
        f"<figure>{picture}<figcaption>{escape(name)}</figcaption></figure>"
        for name, picture in panels
    )
    classes = "".join(
        f'<li><span class="colour" style="background:rgb({",".join(map(str, colours[name]))})">'
        f"</span>{escape(name)} {share:.1%}</li>"
        for name, share in one.shares.items()
    )
    scores = ""
    if one.miou is not None and one.pixel_accuracy is not None:
        scores = (
            f'<p class="faint">mIoU {100 * one.miou:.1f}, '
            f"pixel accuracy {100 * one.pixel_accuracy:.1f}</p>"
        )
    return (
        f'<section class="image"><h2>{escape(one.input)}</h2><div class="panels">{figures}</div>'
        f"<ul>{classes}</ul>{scores}</section>"
    )


def render_page(result: SegmentResult, sections: Sequence[str]) -> str:
    """Return the page.

    Args:
        result: what was predicted.
        sections: of its images, in their order.
    """
    title = f"Masks from bank {result.bank} of {result.store}"
    about = (
        f"{' + '.join(result.features)} of {result.feature_set}; {counted(result.k, 'neighbour')}, "
        f"beta {result.beta:g}; {counted(len(result.images), 'image')}"
    )
    return html_page(title, about, STYLE, _failed(result.failed) + "".join(sections))


def _failed(failures: Mapping[str, str]) -> str:
    if not failures:
        return ""
    lines = "".join(
        f"<p><b>{escape(text)}</b>: {escape(message)}</p>" for text, message in failures.items()
    )
    return f'<section class="failed"><h2>Without a mask</h2>{lines}</section>'
