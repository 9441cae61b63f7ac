"""Priors by name: "fashion-dcgan32", "stylegan2:ffhq.pkl,space=w,size=64", "package.module:MyPrior"."""

import re
from difflib import get_close_matches
from typing import Any

from ggl.base.options import build, read_options
from ggl.base.random import global_stream, stream_seed
from ggl.base.registry import unknown_name
from ggl.generators.adopted import adopt
from ggl.generators.base import Prior
from ggl.generators.catalog import priors
from ggl.generators.features import FEATURES, Features
from ggl.generators.own_network import load_own

__all__ = [
    "load_prior",
]

OF_FEATURES = {"stage": int, "dims": int, "around": float}
"""Options beside "space=features"."""


def load_prior(specification: str) -> Prior:
    """Return the prior of "name", "name:value,option=value" or `package.module:Class`.

    It is in eval mode, on the CPU. What it draws as it is built is always the same.

    What is no `Prior` but has `latent_dim`, `image_shape` and `decode` is taken as one (`adopt`), and so is
    a network with its weights: "package.module:Generator,weights=G.pth,range=tanh" (`OwnNetwork`).
    With "space=features,stage=K" its activations after a stage are searched (`Features`), with
    "space=w/features,stage=K" those of its space w.

    Raises:
        UnknownNameError: a name or an option that is not known.
        InputError: an option is missing or of the wrong kind, or what was found is no prior.
        WeightsError: its weights are missing, cut short or altered.

    Examples:
        >>> prior = ggl.load_prior("fashion-dcgan32")
        >>> z = prior.sample(2, torch.Generator().manual_seed(0))
        >>> prior.decode(z, torch.tensor([0, 9])).shape
        torch.Size([2, 1, 32, 32])
    """
    factory, text = priors.resolve(specification)
    text, asked = _features_asked(specification, text)
    with global_stream(stream_seed(0, "prior")):
        if specification.partition(":")[0] in priors:
            made = build(f"prior {specification!r}", factory, text)
        else:
            made = load_own(specification, factory, text)
        prior = adopt(made, specification).eval()
        return prior if asked is None else Features(prior, **asked).eval()


def _features_asked(specification: str, text: str | None) -> tuple[str | None, dict[str, Any] | None]:
    """Return the options without those of features, and these, None where they are not asked for."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    spaces = [part for part in parts if re.fullmatch(f"space=(.+/)?{FEATURES}", part)]
    if not spaces:
        for space in (part.removeprefix("space=") for part in parts if part.startswith("space=")):
            if get_close_matches(space.rpartition("/")[2], [FEATURES]):
                raise unknown_name("space", space, [FEATURES])
        return text, None
    mine = [part for part in parts if part.partition("=")[0] in OF_FEATURES]
    upon = [part.removesuffix(FEATURES).removesuffix("/") if part in spaces else part for part in parts]
    others = [part for part in upon if part not in ("space=", *mine)]
    asked = read_options(f"prior {specification!r}", ",".join(mine), OF_FEATURES)
    return ",".join(others) or None, {"stage": None, **asked}
