"""BigGAN-deep's configurations: as published, and as the `config.json` of an archive states them."""

import json
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from ggl.base.errors import WeightsError

__all__ = ["PUBLISHED", "Configuration", "read_configuration"]

Layer: TypeAlias = tuple[bool, int, int]
"""Whether a block doubles the side, and its channels in and out in units of the channel width."""

START, START_WIDTH = 4, 16
"""Side in pixels and width of the first feature map."""


@dataclass(frozen=True)
class Configuration:
    """What `config.json` of the published archive says, field by field.

    `eps` is that of every normalization; `n_stats` the truncations, evenly spaced in [0, 1], for which
    batch statistics are stored.
    """

    output_dim: int
    layers: tuple[Layer, ...]
    channel_width: int = 128
    z_dim: int = 128
    class_embed_dim: int = 128
    num_classes: int = 1000
    attention_layer_position: int = 8
    eps: float = 1e-4
    n_stats: int = 51


def _layers(*widths: int) -> tuple[Layer, ...]:
    """Return two blocks for every step from width to width, the second one doubling the side."""
    steps = [((False, below, below), (True, below, above)) for below, above in pairwise(widths)]
    return tuple(layer for step in steps for layer in step)


PUBLISHED = {
    128: Configuration(128, _layers(16, 16, 8, 4, 2, 1)),
    256: Configuration(256, _layers(16, 16, 8, 8, 4, 2, 1)),
    512: Configuration(512, _layers(16, 16, 8, 8, 4, 2, 1, 1)),
}
"""By resolution. arXiv 1809.11096, tables 7 to 9; the same values as the library's conversion script."""


def read_configuration(path: Path, resolution: int) -> Configuration:
    """Return the configuration in a `config.json`, of whatever width.

    Raises:
        WeightsError: it is no JSON object of the known fields, contradicts itself, or is of another
            resolution.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: expected BigGAN's configuration in JSON, found none ({error})"
        ) from error
    names = {field.name for field in fields(Configuration)}
    if not isinstance(content, dict) or content.keys() != names:
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise WeightsError(f"{path}: expected the fields {', '.join(sorted(names))}, found {found}")
    eps, layers = content.pop("eps"), content.pop("layers")
    for name, value in content.items():
        if type(value) is not int or value < (name != "attention_layer_position"):
            raise WeightsError(f"{path}: expected a positive whole number for {name}, found {value!r}")
    if type(eps) is not float or not 0 < eps < 1:
        raise WeightsError(f"{path}: expected a number between 0 and 1 for eps, found {eps!r}")
    if not isinstance(layers, list) or not layers or not all(_is_layer(layer) for layer in layers):
        raise WeightsError(
            f"{path}: expected layers as [doubles the side, width in, width out], found {layers!r}"
        )
    configuration = Configuration(eps=eps, layers=tuple((up, i, o) for up, i, o in layers), **content)
    _check_consistent(configuration, path, resolution)
    return configuration


def _is_layer(layer: object) -> bool:
    return (
        isinstance(layer, list) and [type(part) for part in layer] == [bool, int, int] and min(layer[1:]) > 0
    )


def _check_consistent(c: Configuration, path: Path, resolution: int) -> None:
    side = START * 2 ** sum(up for up, _, _ in c.layers)
    chain = [START_WIDTH, *(above for _, _, above in c.layers)]
    linked = [below for _, below, _ in c.layers] == chain[:-1] and chain[-1] == 1
    halved = all(below in (above, 2 * above) for _, below, above in c.layers)
    attended = c.attention_layer_position < len(c.layers)
    for holds, expected, found in (
        (c.output_dim == resolution, f"output_dim {resolution}", c.output_dim),
        (side == resolution, f"layers that reach {resolution} px", f"{side} px"),
        (linked and halved, f"layers from width {START_WIDTH} to 1, kept or halved by each", c.layers),
        (attended, f"attention before one of {len(c.layers)} layers", c.attention_layer_position),
        (c.class_embed_dim == c.z_dim, f"class_embed_dim as z_dim, {c.z_dim}", c.class_embed_dim),
        (c.channel_width % 4 == 0, "channel_width in multiples of 4", c.channel_width),
        (c.n_stats > 1, "n_stats of at least 2", c.n_stats),
    ):
        if not holds:
            raise WeightsError(f"{path}: expected {expected}, found {found}")
    if c.channel_width * c.layers[c.attention_layer_position][1] % 8:
        raise WeightsError(f"{path}: expected attention over a multiple of 8 channels, found fewer")
