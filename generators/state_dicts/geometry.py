"""Strides and paddings, as far as kernels and the image's size determine them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
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
"""Height and width in pixels that maps may have."""

SHRINKING = 8
"""Pixels that later kernels may take off again."""

SHOWN = 4
"""Ways that a message names."""


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
    kernels = [link for _, link in links]
    found: list[tuple[int, Geometry]] = []
    for doubled in _doublings([i for i, link in links if link.way == "convolution"], places, grows=grows):
        twice = [i in doubled for i, _ in links]
        for cost, steps, side in _walks(kernels, choices, start or 1, twice, image_size):
            found.append((cost, Geometry(steps, doubled, side)))
    fewest = min((cost for cost, _ in found), default=0)
    best = [geometry for cost, geometry in found if cost == fewest]
    if len(best) == 1:
        return best[0]
    way = f"kernels of {', '.join(str(link.kernel) for link in kernels)} lead from {start or 1} px to "
    way += "an image" if image_size is None else f"{image_size} px"
    if not best:
        raise question(path, f"found no strides by which {way}: correct image_size= or strides=")
    ways = " or ".join(sorted({"/".join(str(step[0]) for step in g.steps) for g in best}))
    raise question(path, f"{way} in more than one way: say which, strides={ways}")


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


def _walks(
    links: Sequence[Link],
    choices: Sequence[Sequence[Step]],
    start: int,
    doubled: Sequence[bool],
    image_size: int | None,
) -> list[tuple[int, list[Step], int]]:
    """Return the least unusual ways through the kernels, at most `SHOWN`: the cost, the steps, the last side.

    The cost is how many kernels of even size do not double the image.
    """
    most = LARGEST if image_size is None else image_size + SHRINKING

    @cache
    def walks(k: int, side: int) -> list[tuple[int, list[Step], int]]:
        if k == len(links):
            return [(0, [], side)] if image_size in (None, side) else []
        link, before = links[k], 2 * side if doubled[k] else side
        found = []
        for stride, padding, extra in choices[k]:
            grown = (before - 1) * stride - 2 * padding + link.kernel + extra
            end = before if link.way == "convolution" else grown
            if 0 < end <= most:
                usual = link.way == "convolution" or link.kernel % 2 == 1
                cost = int(not usual and end != 2 * before and before > 1)
                step = (stride, padding, extra)
                found += [(cost + more, [step, *steps], last) for more, steps, last in walks(k + 1, end)]
        least = min((cost for cost, _, _ in found), default=0)
        return [way for way in found if way[0] == least][:SHOWN]

    return walks(0, start)
