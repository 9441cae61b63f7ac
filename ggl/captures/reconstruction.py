"""What an attack made of a captured update whose images nobody knows: figures, and a folder of files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from ggl.attacks.course import SearchResult
from ggl.base.files import write_atomically
from ggl.base.versions import versions
from ggl.captures.card import card_of
from ggl.measures.statistics import Interval, bootstrap_mean
from ggl.pages.card import CARD, Card, draw_card
from ggl.pages.templates import DISPLAY_SIDE, check_page, data_uri, fill

__all__ = ["Reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    """What an attack makes of a captured update, beside what it makes of others' updates and of noise.

    The first update is the captured one, then come m controls', then m of noise; k = 1 + 2 m.

    Attributes:
        results: (k,), the searches.
        matches: (k, k), the distance of reconstruction i's gradient to update u, as the attacker compares.

    Examples:
        >>> data, prior = ggl.load_dataset("fashion-mnist-heldout"), ggl.load_prior("fashion-dcgan32")
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> shared = ggl.GradientOracle(victim).observe(data.images[:1], data.labels[:1])
        >>> pool = data.images[20:], data.labels[20:]
        >>> found = ggl.reconstruct(victim, shared, prior=prior, pool=pool, budget=100)
        >>> found.results[0].images.shape, found.stands_out
        (torch.Size([1, 1, 32, 32]), True)
    """

    settings: Mapping[str, object]
    results: Sequence[SearchResult]
    matches: Float64[NDArray[np.float64], "k k"]
    seconds: float

    @property
    def match(self) -> float:
        """The distance of the reconstruction's gradient to the captured update."""
        return float(self.matches[0, 0])

    @property
    def controls(self) -> slice:
        """Where the controls stand."""
        return slice(1, 1 + len(self.results) // 2)

    @property
    def gap(self) -> Interval:
        """By how much it matches better than the controls' reconstructions, with an interval over these."""
        return bootstrap_mean(self.matches[self.controls, 0] - self.match)

    def gaps(self) -> Float64[NDArray[np.float64], " k"]:
        """Return each update's gap: the mean match of controls made of other updates, less its own."""
        others = self.matches.copy()
        np.fill_diagonal(others, np.nan)
        means: NDArray[np.float64] = np.nanmean(others[self.controls], axis=0)
        return means - np.diag(self.matches)

    @property
    def stands_out(self) -> bool:
        """Whether it matches better than every control, by more than an attack gains on any noise."""
        beyond = self.matches[self.controls, 0] > self.match
        return bool(beyond.all() and self.gap.mean > self.gaps()[self.controls.stop :].max())

    @property
    def settings_doubtful(self) -> bool:
        """Whether every control is matched better by its own attack: the settings may not be the client's."""
        return bool((np.diag(self.matches)[self.controls] < self.match).all())

    def to_dict(self) -> dict[str, object]:
        """Return the content of `result.json`: the same for the same seed, `timing` apart."""
        return {
            "settings": dict(self.settings),
            "versions": versions(),
            "labels": self.results[0].labels.tolist(),
            "match": self.match,
            "control_gap": self.gap.to_dict(),
            "updates": [
                {"update": title, "match_to_captured": to_captured, "match_to_own": own, "gap": gap}
                for title, to_captured, own, gap in zip(
                    self.titles(),
                    self.matches[:, 0].tolist(),
                    np.diag(self.matches).tolist(),
                    self.gaps().tolist(),
                    strict=True,
                )
            ],
            "stands_out": self.stands_out,
            "settings_doubtful": self.settings_doubtful,
            "loss": self.results[0].loss,
            "evaluations": self.results[0].evaluations,
            "backward_passes": self.results[0].backward_passes,
            "timing": {"seconds": round(self.seconds, 2)},
        }

    def save(self, folder: str | Path, *, html: bool = True) -> dict[str, object]:
        """Write images, `report.html`, `card.png` and, last, `result.json` into a folder; return the last.

        Raises:
            InputError: `html`, page and card, without the packages of the extra `report`; nothing is written.
        """
        from torchvision.utils import save_image  # seconds to import

        if html:
            check_page()
        folder, result = Path(folder), self.to_dict()
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for name, images in self.image_sets().items():
            for i, image in enumerate(images):
                save_image(image, folder / "images" / f"{name}-{i:03d}.png")
        if html:
            card = self.card(result)
            write_atomically(folder / CARD, draw_card(card))
            write_atomically(folder / "report.html", self.page(result, card).encode())
        write_atomically(folder / "result.json", json.dumps(result, indent=1, allow_nan=False).encode())
        return result

    def titles(self) -> list[str]:
        """Return what each update is called."""
        numbers = range(1, 1 + len(self.results) // 2)
        return ["captured", *(f"control {k}" for k in numbers), *(f"noise {k}" for k in numbers)]

    def image_sets(self) -> dict[str, Tensor]:
        """Return every reconstruction by the name that its files begin with."""
        return {
            title.replace(" ", ""): found.images
            for title, found in zip(self.titles(), self.results, strict=True)
        }

    def card(self, result: Mapping[str, Any]) -> Card:
        """Return the share card of `to_dict()`: how well it matches, and no leak score."""
        return card_of(result, [found.images for found in self.results])

    def page(self, result: Mapping[str, object], card: Card | None = None) -> str:
        """Return `report.html` of `to_dict()`, whose `timing` may be None; the same bytes for the same.

        A card is the one that lies beside the page.
        """
        pictures = [[data_uri(image) for image in found.images] for found in self.results]
        labels = [found.labels.tolist() for found in self.results]
        pixelated = self.results[0].images.shape[-1] < DISPLAY_SIDE
        shown = {"pictures": pictures, "classes": labels, "side": DISPLAY_SIDE, "pixelated": pixelated}
        return fill("reconstruction.html.jinja", {**result, **shown, "card": card})
