"""Doubts about single cells: what a search could follow, what a control holds, what is missing."""

import math
from collections import Counter

from ggl.audits.verdicts import FEWEST_IMAGES
from ggl.benchmarks.checks.flag import Flag, Severity
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.benchmarks.sweeps.records import Record, figure_name
from ggl.measures.leakage import HEADLINE, SIGNIFICANCE

__all__ = ["failed_cells", "few_images", "objective_zero", "private_not_matched", "shared_image"]

SAME_PICTURE = (0.5 / 255) ** 2
"""Mean squared error below which two pictures are one when written with 8 bits."""

MATCHED = 1e-4
"""Cosine distance, far above what float32 leaves between two computations of one gradient."""


def objective_zero(group: CellGroup) -> Flag | None:
    """Doubt cells whose search had nothing to follow, or whose error is undefined.

    The loss is exactly 0, or the match 0 or, by rounding, less (or, by cosine, exactly 1, as of a zero
    gradient) although the picture found is another than the private one; or the loss, the match or the
    headline error is missing or not finite.
    """
    cells = _ok(group)
    broken = sum(_is_broken(record) for record in cells)
    empty = sum(_is_empty(record) and not _is_broken(record) for record in cells)
    if empty + broken == 0:
        return None
    message = (
        f"Of {len(cells)} cells, {empty} ended with an objective of zero or without information, and "
        f"{broken} with a loss or an error that is not finite."
    )
    return Flag("objective-zero", "doubt", group.cell, message, empty + broken)


def shared_image(group: CellGroup) -> Flag | None:
    """Doubt cells whose sibling is their own private image, or another cell's."""
    private = {record.private_image for record in group.records} - {""}
    shared = sum(record.sibling_image in private for record in group.records)
    if not shared:
        return None
    message = (
        f"In {shared} of {len(group.records)} cells the sibling control attacks an image that is private "
        "itself, so that the control holds what it should lack."
    )
    return Flag("shared-image", "doubt", group.cell, message, shared)


def failed_cells(group: CellGroup) -> Flag | None:
    """Doubt a figure that leaves out cells because they failed."""
    failed = [record for record in group.records if record.status == "failed"]
    if not failed:
        return None
    reason, times = Counter(record.reason for record in failed).most_common(1)[0]
    figure = f"the figure is of {group.n} images" if group.n else "there is no figure"
    message = (
        f"{len(failed)} of {len(group.records)} cells failed and {figure}; most often ({times}): {reason}"
    )
    return Flag("failed-cells", "doubt", group.cell, message, len(failed))


def private_not_matched(group: CellGroup) -> Flag | None:
    """Doubt an objective whose optimum is not the private image.

    For most images its own gradient is no nearer to the observed one than that of a picture that is not
    it; or, by cosine and without a defense, it is further than `MATCHED` at all.
    """
    undefended = group.cell.defense == "none"
    cells = _ok(group)
    beaten = [record for record in cells if _is_beaten(record)]
    missed = [record for record in cells if undefended and _is_missed(record)]
    if not missed and len(beaten) <= len(cells) / 2:
        return None
    message = (
        f"In {len(beaten)} of {len(cells)} cells the private image's own gradient is no nearer to the "
        "observed one than that of the picture found"
    )
    more = f", and in {len(missed)} it is further than {MATCHED:g} without a defense" if missed else ""
    concerned = len({record.cell for record in beaten + missed})
    severity: Severity = "doubt" if undefended else "note"
    return Flag("private-not-matched", severity, group.cell, f"{message}{more}.", concerned)


def few_images(group: CellGroup) -> Flag | None:
    """Say that no leak could be shown, whatever came out: the test has too few images."""
    if not 0 < group.n < FEWEST_IMAGES:
        return None
    begun = len({record.cell.image for record in group.records if record.status != "skipped"})
    message = (
        f"{group.n} of {begun} images stand behind the figure; below {FEWEST_IMAGES} no leak can be shown at "
        f"p < {SIGNIFICANCE}."
    )
    return Flag("few-images", "note", group.cell, message, group.count("ok"))


def _ok(group: CellGroup) -> list[Record]:
    return [record for record in group.records if record.status == "ok"]


def _is_broken(record: Record) -> bool:
    names = "loss", "match_of_attack", figure_name("attack", HEADLINE)
    values = [record.figures.get(name) for name in names]
    return any(value is None or not math.isfinite(value) for value in values)


def _is_found(record: Record) -> bool:
    """Say whether the picture found is the private one."""
    error = record.figures.get(figure_name("attack", HEADLINE))
    return error is not None and error < SAME_PICTURE


def _is_empty(record: Record) -> bool:
    loss, match = record.figures.get("loss"), record.figures.get("match_of_attack")
    nothing = match is not None and (match <= 0 or (record.cell.distance == "cosine" and match == 1))
    return (loss == 0 or nothing) and not _is_found(record)


def _is_beaten(record: Record) -> bool:
    own, attack = (record.figures.get(f"match_of_{kind}") for kind in ("private", "attack"))
    return (own is None or (attack is not None and own >= attack)) and not _is_found(record)


def _is_missed(record: Record) -> bool:
    own = record.figures.get("match_of_private")
    return record.cell.distance == "cosine" and (own is None or own > MATCHED)
