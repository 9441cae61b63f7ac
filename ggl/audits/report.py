"""A report: what an audit found, as a folder of files."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ggl.audits.card import card_of
from ggl.audits.findings import Findings
from ggl.audits.page import render
from ggl.base.errors import InputError
from ggl.base.files import write_atomically
from ggl.costs.utility_file import read_utility
from ggl.pages.card import CARD, Card, draw_card

__all__ = [
    "Report",
]


OWN_PICTURE = re.compile(r"(private|ceiling|cell\d\d-(attack|sibling|noise))-\d{3}\.png")


class Report(Findings):
    """What `ggl.audit` returns: the findings, to be set beside costs and saved as a folder of files.

    Examples:
        >>> data, prior = ggl.load_dataset("fashion-mnist-heldout"), ggl.load_prior("fashion-dcgan32")
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> report = ggl.audit(victim, data.images[:1], data.labels[:1], prior=prior, budget=100)
        >>> report.save("runs/mine")["results"][0]["defense"]
        'none'
    """

    def with_utility(self, source: str | Path | Mapping[str, object]) -> "Report":
        """Return the report beside what its defenses cost, from a utility.json or its content.

        Raises:
            InputError: it cannot be read, is not what `ggl utility` writes, or is of another victim.
        """
        return replace(self, utility=read_utility(source, str(self.settings["victim"])))

    def with_groups(self, groups: Sequence[str] | Sequence[int]) -> "Report":
        """Return the report with a group for each image, such as a person's sex, to be compared like classes.

        Raises:
            InputError: not one group for each image.
        """
        if len(groups) != len(self.images):
            raise InputError(
                f"expected a group for each of {len(self.images)} images, found {len(groups)} groups"
            )
        return replace(self, groups=[str(group) for group in groups])

    def page(self, result: Mapping[str, object], card: Card | None = None) -> str:
        """Return `report.html` of `to_dict()`, whose `timing` may be None; a card lies beside the page."""
        return render(self, result, card)

    def card(self, result: Mapping[str, object]) -> Card:
        """Return the share card of `to_dict()`: verdict, pictures and settings at a glance."""
        return card_of(self, result)

    def save(self, folder: str | Path, *, html: bool = True) -> dict[str, object]:
        """Write images, `report.html`, `card.png` and, last, `result.json` into a folder; return the last.

        Raises:
            InputError: `html`, page and card, without the packages of the extra `report`; nothing is written.
        """
        from torchvision.utils import save_image  # seconds to import

        folder, result = Path(folder), self.to_dict()
        card = self.card(result) if html else None
        page = None if card is None else self.page(result, card)
        picture = None if card is None else draw_card(card)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for stale in (folder / "images").glob("*.png"):
            if OWN_PICTURE.fullmatch(stale.name):
                stale.unlink()
        for name, images in self.image_sets().items():
            for i, image in enumerate(images):
                save_image(image, folder / "images" / f"{name}-{i:03d}.png")
        if page is not None and picture is not None:
            write_atomically(folder / CARD, picture)
            write_atomically(folder / "report.html", page.encode())
        write_atomically(folder / "result.json", json.dumps(result, indent=1, allow_nan=False).encode())
        return result
