"""Self-contained HTML pages out of templates: they open anywhere and ask nothing of a network.

Jinja2 and matplotlib, the extra `report`, are imported when a page is made and not before.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files

from PIL import Image
from torch import Tensor

from ggl.base.distribution import install_command
from ggl.base.errors import InputError
from ggl.pages.style import PALETTE

__all__ = ["COLUMNS_SHOWN", "DISPLAY_SIDE", "check_page", "data_uri", "fill", "fixed", "to_picture"]

NEEDED = ("jinja2", "matplotlib")

COLUMNS_SHOWN = 20
"""Private images on a page, the first ones: choosing them by result would mislead."""

DISPLAY_SIDE = 72
"""Width of a picture on a page, in CSS pixels."""


def check_page() -> None:
    """Raise `InputError` where jinja2 or matplotlib, the extra `report`, is not installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"pages and their card.png need {' and '.join(NEEDED)}: {install_command(*NEEDED)}, "
            "or save without the page"
        ) from error


def fill(template: str, content: Mapping[str, object], packages: Sequence[str] = ("ggl.pages",)) -> str:
    """Return the page of a template; the same bytes for the same content.

    The template and what it includes lie in the folders `assets` of `packages`, the first of which that has
    a file of the name gives it.
    """
    import jinja2

    def source(name: str) -> str | None:
        found = (files(package).joinpath("assets", name) for package in packages)
        return next((file.read_text("utf-8") for file in found if file.is_file()), None)

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fixed"] = fixed
    environment.globals["palette"] = PALETTE
    return environment.get_template(template).render(content).strip() + "\n"


def to_picture(image: Tensor) -> Image.Image:
    """Return an image (c, h, w) in [0, 1], one channel or three, with 8 bits a channel."""
    pixels = (image.detach().cpu() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def data_uri(image: Tensor) -> str:
    """Return an image (c, h, w) in [0, 1] as a PNG, no larger than a sharp screen can show."""
    picture = to_picture(image)
    picture.thumbnail((2 * DISPLAY_SIDE, 2 * DISPLAY_SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def fixed(value: float | None, digits: int) -> str:
    """Return a number with so many decimals, with a true minus sign; "undefined" for None."""
    if value is None:
        return "undefined"
    text = f"{value:.{digits}f}"
    negative = text.startswith("-") and float(text) != 0
    return ("\u2212" if negative else "") + text.removeprefix("-")
