"""The drawing of share cards: size, the same bytes, pictures where they belong, long texts."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ggl.pages.card import HEIGHT, MOST_PICTURES, WIDTH, Card, CardRow, draw_card


def solid(value, side=8):
    """One picture of one red."""
    return torch.stack([torch.full((side, side), value), torch.zeros(side, side), torch.zeros(side, side)])


ROWS = [
    CardRow("private image", [solid(1.0)] * 2, "the first ones"),
    CardRow("noise:1", [solid(0.8)] * 2, "▲ leaks", "0.50 [0.40, 0.60]", "alarm", name=True),
    CardRow("ceiling", [solid(0.6)] * 2),
]
CARD = Card("kind", "Headline", "below", ("a", "b", "c"), ["image 0", "image 1"], ROWS, "note", "settings")


def pixels(card):
    return np.asarray(Image.open(io.BytesIO(draw_card(card))).convert("RGB"))


def reds(found):
    """Return how many pixels are of each red that pictures here have."""
    return [int((found == (round(255 * v), 0, 0)).all(2).sum()) for v in (1.0, 0.8, 0.6)]


def test_it_is_a_png_of_1200_by_630_with_the_same_bytes_each_time():
    content = draw_card(CARD)
    assert content == draw_card(CARD)
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size) == ("PNG", (1200, 630)) == ("PNG", (WIDTH, HEIGHT))
    assert "Software" not in picture.info


def test_all_pictures_of_a_row_are_there_in_their_order():
    found = pixels(CARD)
    one, *others = reds(found)
    assert one > 2 * 50 * 50
    assert others == [one, one]
    first = [np.argwhere((found == (round(255 * v), 0, 0)).all(2))[0] for v in (1.0, 0.8, 0.6)]
    assert first[0][0] < first[1][0] < first[2][0]
    assert len({x for _, x in first}) == 1


@pytest.mark.parametrize("change", [{"headline": "Other"}, {"settings": "other"}, {"below": ""}])
def test_every_text_is_seen(change):
    assert (pixels(replace(CARD, **change)) != pixels(CARD)).any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 300, 200), (1, 28, 28)])
def test_pictures_of_any_shape_fit(shape):
    row = CardRow("x", [torch.zeros(shape)] * MOST_PICTURES)
    card = replace(CARD, rows=[row] * 7, columns=[f"image {k}" for k in range(MOST_PICTURES)])
    found = pixels(card)
    dark = np.argwhere((found == 0).all(2))
    assert dark.max(0)[0] < 564
    assert dark.max(0)[1] < WIDTH - 40
    assert (found[:, -40:] == 255).all()


def test_long_texts_stay_on_the_card():
    """What is outside the margins stays white, and no text reaches into the pictures."""
    words = "unbelievably long words " * 40
    rows = [replace(row, title="t" * 200, said="s" * 200, figure="9" * 200) for row in ROWS]
    card = replace(CARD, headline=words, below=words, note=words, settings="x" * 999, rows=rows)
    found = pixels(card)
    assert (found[:, :40] == 255).all()
    assert (found[:, -36:] == 255).all()
    assert (found[-6:] == 255).all()
    one, *others = reds(found)
    assert one > 0
    assert others == [one, one]


def test_letters_that_the_font_lacks_are_no_error():
    assert pixels(replace(CARD, headline="漢字 $x^$ <b>")).shape == (HEIGHT, WIDTH, 3)
