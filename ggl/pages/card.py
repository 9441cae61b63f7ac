"""The share card of a report: one PNG with its verdict, a grid of pictures and the settings.

matplotlib, of the extra `report`, is imported when a card is drawn and not before.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from ggl.pages.style import PALETTE, STYLE
from ggl.pages.templates import to_picture

__all__ = ["CARD", "HEIGHT", "MOST_PICTURES", "WIDTH", "Card", "CardRow", "draw_card"]

CARD = "card.png"
"""Name of the file, beside the report's page."""

WIDTH, HEIGHT = 1200, 630
"""In pixels: what previews of links are made for."""

MOST_PICTURES = 8
"""Pictures in a row at most, the first ones: choosing them by result would mislead."""

Number: TypeAlias = int | float
Tone: TypeAlias = Literal["alarm", "calm", "soft"]

DPI = 100
MARGIN, GAP = 44, 5
SAID, FIGURE, GRID = 222, 402, 632
"""Where a row's words, its figure and its pictures begin."""

FOOT = 564
"""Where the note and the settings begin."""

HEAD, LEAST_COLUMN, LARGEST_PICTURE = 22, 60, 104
HEADLINES = (30, 26, 23, 20)
"""Sizes of a headline in pixels; the first with which it takes two lines is taken, else the last."""


@dataclass(frozen=True)
class CardRow:
    """One row of a card: what it is, what is said of it, a figure, and pictures (c, h, w) in [0, 1].

    Attributes:
        tone: the color of what is said.
        name: whether the title is a name as it is typed.
    """

    title: str
    pictures: Sequence[Tensor]
    said: str = ""
    figure: str = ""
    tone: Tone = "soft"
    name: bool = False


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        kind: what was done, over everything.
        headline: the verdict in words; `below` is a sentence under it.
        heads: of the rows' titles, words and figures.
        columns: over the pictures, at most `MOST_PICTURES`.
        rows: their pictures are as many as the columns.
        note: how to read it; `settings` is what it was measured with.
    """

    kind: str
    headline: str
    below: str
    heads: tuple[str, str, str]
    columns: Sequence[str]
    rows: Sequence[CardRow]
    note: str
    settings: str


def draw_card(card: Card) -> bytes:
    """Return a card as PNG, `WIDTH` by `HEIGHT`; the same bytes for the same content."""
    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font does not have
        sheet = _Sheet()
        sheet.write(card.kind, MARGIN, 24, 15, "soft")
        top = _headline(sheet, card)
        _table(sheet, card, top)
        sheet.rule(FOOT)
        sheet.write_lines(card.note, MARGIN, FOOT + 8, 13, "soft", most=1)
        sheet.write_lines(card.settings, MARGIN, FOOT + 27, 13, "ink", most=2)
        return sheet.png()


def _headline(sheet: "_Sheet", card: Card) -> Number:
    """Write the headline and the sentence below it; return where they end."""
    fitting = (
        s for s in HEADLINES if len(list(sheet.broken(card.headline, s, WIDTH - 2 * MARGIN, True))) < 3
    )
    size = next(fitting, HEADLINES[-1])
    top = sheet.write_lines(card.headline, MARGIN, 46, size, "ink", bold=True, most=3)
    return sheet.write_lines(card.below, MARGIN, top + 4, 19, "ink", most=1) + 10


def _table(sheet: "_Sheet", card: Card, top: Number) -> None:
    """Draw the rows, each as high as the room allows, with as many columns as fit then."""
    height = (FOOT - 6 - top - HEAD) / len(card.rows)
    side = int(min(height - GAP, LARGEST_PICTURE))
    width = max(side + GAP, LEAST_COLUMN)
    columns = int((WIDTH - MARGIN - GRID + GAP) // width)
    for x, text in zip((MARGIN, SAID, FIGURE), card.heads, strict=True):
        sheet.write(text, x, top, 14, "soft")
    for k, column in enumerate(card.columns[:columns]):
        sheet.write(column, GRID + k * width, top, 13, "soft", room=width - 2)
    for line, row in enumerate(card.rows):
        y = top + HEAD + line * height
        _row(sheet, row, y + side / 2 - 11)
        for k, picture in enumerate(row.pictures[:columns]):
            sheet.picture(picture, GRID + k * width, y, side)


def _row(sheet: "_Sheet", row: CardRow, y: Number) -> None:
    """Write a row's words; without a figure, what is said reaches over its place."""
    room = (SAID - MARGIN, (FIGURE if row.figure else GRID) - SAID, GRID - FIGURE)
    sheet.write(row.title, MARGIN, y, 18, "ink", bold=True, mono=row.name, room=room[0] - 12)
    loud = row.tone != "soft"
    sheet.write(
        row.said, SAID, y + (0 if loud else 2), 18 if loud else 15, row.tone, bold=loud, room=room[1] - 12
    )
    sheet.write(row.figure, FIGURE, y, 18, "ink", room=room[2] - 12)


class _Sheet:
    """A drawing in pixels, from the upper left."""

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor=PALETTE["page"])
        self.canvas: Any = FigureCanvasAgg(self.figure)

    def write(
        self,
        text: str,
        x: Number,
        y: Number,
        size: Number,
        color: str,
        *,
        bold: bool = False,
        mono: bool = False,
        room: Number = WIDTH,
    ) -> None:
        """Write a line whose top is at y; what does not fit the room ends in an ellipsis."""
        shown = text
        while shown and self.width(shown, size, bold, mono) > room:
            shown = shown.removesuffix("…")[:-1] + "…"
        self.figure.text(
            *(x / WIDTH, 1 - y / HEIGHT, shown),
            color=PALETTE[color],
            fontproperties=_font(size, bold, mono),
            va="top",
        )

    def write_lines(
        self, text: str, x: Number, y: Number, size: Number, color: str, *, bold: bool = False, most: int
    ) -> Number:
        """Write a text in at most so many lines; return where it ends."""
        room = WIDTH - MARGIN - x
        lines = list(self.broken(text, size, room, bold))
        for line in filter(None, (*lines[: most - 1], " ".join(lines[most - 1 :]))):
            self.write(line, x, y, size, color, bold=bold, room=room)
            y += 1.3 * size
        return y

    def broken(self, text: str, size: Number, room: Number, bold: bool) -> Iterator[str]:
        """Yield a text's lines, broken between words."""
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and self.width(longer, size, bold) > room:
                yield line
                line = word
            else:
                line = longer
        if line:
            yield line

    def width(self, text: str, size: Number, bold: bool = False, mono: bool = False) -> Number:
        """Return a line's width."""
        found = self.canvas.get_renderer().get_text_width_height_descent(text, _font(size, bold, mono), False)
        return float(found[0])

    def picture(self, image: Tensor, x: Number, y: Number, side: int) -> None:
        """Put a picture into a square; small ones are enlarged pixel by pixel."""
        small = to_picture(image).convert("RGB")
        factor = max(1, -(-side // max(small.size)))
        large = small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)
        share = side / max(large.size)
        shape = tuple(max(1, round(share * length)) for length in large.size)
        pixels = np.asarray(large.resize((shape[0], shape[1]), Image.Resampling.LANCZOS))
        self.figure.figimage(pixels, round(x), HEIGHT - round(y) - shape[1], origin="upper")

    def rule(self, y: Number) -> None:
        """Draw a line from margin to margin."""
        from matplotlib.lines import Line2D

        ends = [MARGIN / WIDTH, 1 - MARGIN / WIDTH]
        self.figure.add_artist(Line2D(ends, [1 - y / HEIGHT] * 2, color=PALETTE["rule"], linewidth=1))

    def png(self) -> bytes:
        """Return the drawing, without what tells versions of matplotlib apart."""
        content = io.BytesIO()
        self.canvas.print_png(content, metadata={"Software": None})
        return content.getvalue()


def _font(size: Number, bold: bool, mono: bool = False) -> Any:
    """Return matplotlib's own font, so that a card is the same everywhere."""
    from matplotlib.font_manager import FontProperties

    family = "DejaVu Sans Mono" if mono else "DejaVu Sans"
    return FontProperties(family=family, size=size * 72 / DPI, weight="bold" if bold else "normal")
