"""Strides and paddings, as far as kernels and the image's size determine them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ggl.generators.state_dicts.chain import Link
from ggl.generators.state_dicts.layers import question
from ggl.generators.state_dicts.places import Place

__all__ = ["Geometry", "find_geometry"]

Step: TypeAlias = tuple[int, int, int]
"""Stride, padding and output padding of a transposed convolution."""

STEPS: dict[int, tuple[Step, ...]] = {
    1: ((1, 0, 0), (1, 1, 0), (1, 2, 0)),
    2: ((2, 0, 0),),
    3: ((2, 1, 1), (1, 1, 0), (2, 1, 0), (1, 0, 0), (2, 0, 0)),
    4: ((2, 1, 0), (1, 0, 0), (2, 0, 0)),
    5: ((2, 2, 1), (1, 2, 0), (1, 0, 0), (2, 2, 0)),
    6: ((2, 2, 0),),
    7: ((1, 3, 0), (1, 0, 0)),
    8: ((2, 3, 0), (4, 2, 0), (1, 0, 0)),
}
"""What kernels of a size are used with in generators, the usual first; of even ones it doubles the image."""


LARGEST = 4096
"""Pixels of an image whose size nobody said."""

SHRINKING = 8
"""Pixels that later kernels may take off again."""


@dataclass(frozen=True)
class Geometry:
    """What the tensors do not say of the maps' sizes.

    Attributes:
        steps: of each kernel of the chain, in order; of plain convolutions their stride 1 and padding.
        doubled: numbers of the chain's links before which maps are upsampled to twice their side.
        side: height and width of the images.
    """

    steps: Sequence[Step]
    doubled: frozenset[int]
    side: int


def find_geometry(
    path: str | Path,
    chain: Sequence[Link],
    places: Sequence[Place],
    image_size: int | None,
    strides: Sequence[int] | None,
) -> Geometry:
    """Return the one geometry that leads to `image_size` by these `strides`, one a kernel.

    Without `image_size`, kernels of even size double the image, those of 1 keep it; others leave it open.
    With it, several geometries that lead there are told apart by the same rule, or asked for.

    Raises:
        InputError: no geometry does, several do, or kernels leave it open; the message says what to give.
    """
    links = [(i, link) for i, link in enumerate(chain) if link.way != "linear"]
    start = links[0][1].side
    choices = [_choices(link, first=i == 0) for i, link in links]
    if strides is not None:
        choices = _of_strides(path, choices, strides, first_is_free=start is None)
    grows = any(link.way == "transposed" and i for i, link in links)
    if image_size is None:
        _check_sure(path, links, start, grows=grows)
        choices = [found[:1] for found in choices]
    found = []
    for doubled in _doublings([i for i, link in links if link.way == "convolution"], places, grows=grows):
        twice = [i in doubled for i, _ in links]
        for steps, side in _walk(
            [link for _, link in links], choices, start or 1, twice, image_size or LARGEST
        ):
            if image_size in (None, side):
                found.append(Geometry(steps, doubled, side))
    fewest = min((_unusual(geometry, links) for geometry in found), default=0)
    best = [geometry for geometry in found if _unusual(geometry, links) == fewest]
    kernels = ", ".join(str(link.kernel) for _, link in links)
    if not best:
        end = "an image" if image_size is None else f"{image_size} px"
        raise question(
            path,
            f"found no strides by which kernels of {kernels} lead from {start or 1} px to {end}: "
            "correct image_size= or strides=",
        )
    if len(best) > 1:
        ways = " or ".join(sorted({"/".join(str(step[0]) for step in g.steps) for g in best})[:4])
        raise question(
            path,
            f"kernels of {kernels} lead from {start or 1} to {image_size} px in {len(best)} ways: "
            f"say which, strides={ways}",
        )
    return best[0]


def _of_strides(
    path: str | Path, choices: Sequence[Sequence[Step]], strides: Sequence[int], *, first_is_free: bool
) -> list[list[Step]]:
    """Return the choices of these strides; that of a kernel on one pixel means nothing."""
    if len(strides) != len(choices):
        raise question(
            path, f"strides=: expected one for each of {len(choices)} kernels, found {len(strides)}"
        )
    return [
        [step for step in found if step[0] == stride or (first_is_free and k == 0)]
        for k, (found, stride) in enumerate(zip(choices, strides, strict=True))
    ]


def _choices(link: Link, *, first: bool) -> list[Step]:
    if first:
        return [(1, 0, 0)]
    if link.way == "convolution":
        return [(1, link.kernel // 2, 0)]
    return list(STEPS.get(link.kernel, ()))


def _check_sure(
    path: str | Path, links: Sequence[tuple[int, Link]], start: int | None, *, grows: bool
) -> None:
    """Raise `InputError` unless kernels alone say how large the image is."""
    for i, link in links:
        if link.way == "transposed" and link.kernel % 2 and link.kernel > 1 and i:
            raise question(
                path,
                f"{link.layer.name} has a kernel of {link.kernel}, which may double the image or not: say "
                "how large the image is, image_size=",
            )
    plain = [link.layer.name for _, link in links if link.way == "convolution"]
    if plain and not grows:
        raise question(
            path,
            f"nothing says where maps of {start or links[0][1].kernel} px are upsampled before the "
            f"convolutions ({plain[0]}, ...): say how large the image is, image_size=",
        )


def _doublings(plain: Sequence[int], places: Sequence[Place], *, grows: bool) -> Iterator[frozenset[int]]:
    """Yield sets of links before which maps may be upsampled: where it shows, then from the first on.

    Transposed convolutions that grow the image leave nothing to upsampling.
    """
    if grows:
        yield frozenset()
        return
    shown = [i for i in plain if places[i - 1].upsampling_shown]
    free = [i for i in plain if i not in shown and places[i - 1].room != 0]
    for count in range(len(free) + 1):
        yield frozenset([*shown, *free[:count]])


def _walk(
    links: Sequence[Link], choices: Sequence[Sequence[Step]], side: int, doubled: Sequence[bool], most: int
) -> Iterator[tuple[list[Step], int]]:
    """Yield every way through the kernels, and the side that it ends with, up to about `most`."""
    if not links:
        yield [], side
        return
    link, start = links[0], 2 * side if doubled[0] else side
    for step in choices[0]:
        stride, padding, extra = step
        grown = (start - 1) * stride - 2 * padding + link.kernel + extra
        end = start if link.way == "convolution" else grown
        if 0 < end <= most + SHRINKING:
            for steps, last in _walk(links[1:], choices[1:], end, doubled[1:], most):
                yield [step, *steps], last


def _unusual(geometry: Geometry, links: Sequence[tuple[int, Link]]) -> int:
    """Return how many kernels of even size do not double the image, that on one pixel apart."""
    return sum(
        step != STEPS[link.kernel][0]
        for step, (i, link) in zip(geometry.steps, links, strict=True)
        if link.way == "transposed" and i and link.kernel % 2 == 0
    )
