"""Attacks on pixels, without a prior: beside them a reader sees what the prior adds."""

from dataclasses import dataclass

__all__ = ["CONTRASTS", "Contrast", "find_contrast"]


@dataclass(frozen=True)
class Contrast:
    """A published attack on pixels, as settings of the search.

    Attributes:
        name: by which it stands where a strategy does.
        strategy: as `load_strategy` reads it, over the prior "pixels:CxHxW" of the victim's images.
        distance: of gradients.
        latents: rule of the pixels' coordinates, as `load_latents` reads it.
        labels: the label rule: "known", "inferred" or "soft".
    """

    name: str
    strategy: str
    distance: str
    latents: str
    labels: str


CONTRASTS = {
    contrast.name: contrast
    for contrast in (
        Contrast("dlg", "l-bfgs:starts=1,memory=100", "l2", "box:2", "soft"),
        Contrast("idlg", "l-bfgs:starts=1,memory=100", "l2", "box:2", "inferred"),
        Contrast(
            "ig",
            "adam:starts=1,learning_rate=0.1,signed=1,schedule=steps",
            "cosine",
            "box:2+tv:0.0001",
            "known",
        ),
    )
}
"""By name. `dlg` (Zhu et al., arXiv 1906.08935): L-BFGS of pixels and label logits together on the squared
L2 distance. `idlg` (Zhao et al., arXiv 2001.02610): the label is read off the last layer, the pixels are
searched alike. `ig` (Geiping et al., arXiv 2003.14053): signed Adam on cosine distance and total variation.

A memory of 100, one start, the rate of 0.1 with its steps and the weight of 1e-4 are those of the
authors' codes. What differs: steps of L-BFGS are searched along their line, and a descent that has ended
begins anew; pixels are kept in [0, 1] by reflection, where `dlg` and `idlg` leave them free and `ig`
projects; the total variation is that of pixels in [0, 1], a fourth of that of pixels normalized by 0.25.
Budgets there are 300 times 20 iterations (`dlg`, `idlg`) and 4,000 (`ig`). A search ends where float32
does: backends that take the difference of gradients itself ("vmap", "sequential") go on where moments
("layerwise") cancel, at about 1e-6 of the squared norm."""


def find_contrast(name: str) -> Contrast | None:
    """Return the contrast of that name, None where it names none."""
    return CONTRASTS.get(name)
