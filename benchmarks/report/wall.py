"""The image wall of a report: private images, reconstructions, controls, ceilings, small enough to send."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from ggl.benchmarks.report.rows import Row
from ggl.benchmarks.sweeps.records import Record, figure_name
from ggl.pages.templates import COLUMNS_SHOWN, DISPLAY_SIDE, fixed

__all__ = ["MOST_BYTES", "PICTURES", "Find", "Wall", "wall_of"]

Find: TypeAlias = Callable[[str, str], Path | None]
"""From a cell's id and a picture's name to its file."""

PICTURES = {
    "private": "private image",
    "attack": "attack",
    "sibling": "sibling control",
    "noise": "noise control",
    "ceiling": "ceiling",
}
"""Names of pictures, and what the page calls them."""

SHARED = ("private", "ceiling")
"""Pictures that many cells have in common: each is in the page once."""

MOST_BYTES = 6_000_000
"""All pictures of a page together, as text with what stands around them."""

MARKUP = 400
"""Bytes around a picture: its cell, its text alternative and its caption."""


@dataclass
class Wall:
    """What the page shows of pictures.

    Attributes:
        images: the numbers of the images shown, the first ones: choosing them by result would mislead.
        left_out: whether even of the first image some pictures did not fit.
        shared: pictures used more than once, by their names in the page.
        pixelated: whether pictures are so small that they are enlarged.
    """

    images: list[int] = field(default_factory=list)
    of: int = 0
    left_out: bool = False
    shared: dict[str, str] = field(default_factory=dict)
    cards: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    pixelated: bool = False


def wall_of(rows: Sequence[Row], find: Find, most: int = MOST_BYTES) -> Wall:
    """Return the wall of as many images as `most` bytes hold, at least of what fits of the first one."""
    images = sorted({image for row in rows for image in row.group.by_image})
    wall, reader, spent = Wall(of=len(images)), _Reader(find), 0
    columns: dict[int, dict[str, dict[str, str]]] = {}
    for image in images[:COLUMNS_SHOWN]:
        found = {
            row.key: reader.column(row.group.by_image[image][0])
            for row in rows
            if image in row.group.by_image
        }
        size = _size(found, wall.shared)
        if columns and spent + size > most:
            break
        columns[image] = found if size <= most else _cut(found, most)
        wall.left_out = size > most
        spent += size
        wall.shared |= {
            uri: f"p{len(wall.shared) + k}" for k, uri in enumerate(_shared(columns[image], wall))
        }
    wall.images, wall.pixelated = list(columns), 0 < reader.side < DISPLAY_SIDE
    wall.cards = {row.key: _card(row, columns, wall.shared) for row in rows}
    return wall


class _Reader:
    """Reads pictures no larger than a sharp screen can show; a file met twice is read in once."""

    def __init__(self, find: Find) -> None:
        self.find, self.known, self.side = find, dict[bytes, str](), 0

    def column(self, record: Record) -> dict[str, str]:
        """Return a cell's pictures as data URIs; those without a readable file are missing."""
        found = {name: self.read(self.find(record.cell.id, name)) for name in PICTURES}
        return {name: uri for name, uri in found.items() if uri}

    def read(self, path: Path | None) -> str:
        """Return a file's picture as a data URI; empty where there is none."""
        if path is None:
            return ""
        try:
            content = path.read_bytes()
            if content not in self.known:
                self.known[content] = self._encode(content)
        except OSError:  # a picture that is gone or damaged: the page says so in its place
            return ""
        return self.known[content]

    def _encode(self, content: bytes) -> str:
        with Image.open(io.BytesIO(content)) as picture:
            self.side = max(self.side, picture.width)
            picture.thumbnail((2 * DISPLAY_SIDE, 2 * DISPLAY_SIDE))
            small = io.BytesIO()
            picture.save(small, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()


def _size(found: Mapping[str, Mapping[str, str]], known: Mapping[str, str]) -> int:
    """Return the bytes that a column adds to the page."""
    own = [uri for column in found.values() for name, uri in column.items() if name not in SHARED]
    return sum(map(len, own + _new(found, known))) + MARKUP * sum(map(len, found.values()))


def _shared(found: Mapping[str, Mapping[str, str]], wall: Wall) -> list[str]:
    return _new(found, wall.shared)


def _new(found: Mapping[str, Mapping[str, str]], known: Mapping[str, str]) -> list[str]:
    shared = [column[name] for column in found.values() for name in SHARED if name in column]
    return [uri for uri in dict.fromkeys(shared) if uri not in known]


def _cut(found: Mapping[str, dict[str, str]], most: int) -> dict[str, dict[str, str]]:
    """Return the first groups' pictures, as many as fit."""
    kept: dict[str, dict[str, str]] = {}
    for key, column in found.items():
        if _size({**kept, key: column}, {}) > most:
            break
        kept[key] = column
    return kept


def _card(
    row: Row, columns: Mapping[int, Mapping[str, Mapping[str, str]]], shared: Mapping[str, str]
) -> list[dict[str, object]]:
    """Return the rows of a group's pictures: a title, and each image's picture, text and caption."""
    cells = [
        (i, row.group.by_image[i][0], columns[i].get(row.key, {})) for i in columns if i in row.group.by_image
    ]
    return [
        {
            "title": title,
            "images": [_picture(i, cell, name, found.get(name), shared) for i, cell, found in cells],
        }
        for name, title in PICTURES.items()
    ]


def _picture(
    image: int, record: Record, name: str, uri: str | None, shared: Mapping[str, str]
) -> dict[str, object]:
    label, decoys = record.figures.get("label"), record.figures.get("decoys")
    alt, caption = f"image {image}, class {label}: {PICTURES[name]}", []
    if name != "private":
        caption = [f"{fixed(record.figure(name, 'psnr'), 1)} dB"]
        rank = record.figures.get(figure_name(name, "rank"))
        if rank is not None and decoys is not None:
            caption.append(f"rank {rank:.0f} of {decoys + 1:.0f}")
        alt += f", PSNR {', '.join(caption)}"
    common = name in SHARED and uri is not None
    return {
        "image": image,
        "use": shared.get(uri or "", "") if common else "",
        "source": "" if common else uri or "",
        "alt": alt,
        "caption": caption,
    }
