"""Priors by name: "fashion-dcgan32", "stylegan2:ffhq.pkl,space=w,size=64", "package.module:MyPrior"."""

from ggl.base.options import build
from ggl.base.random import global_stream, stream_seed
from ggl.generators.adopted import adopt
from ggl.generators.base import Prior
from ggl.generators.catalog import priors
from ggl.generators.own_network import load_own

__all__ = [
    "load_prior",
]


def load_prior(specification: str) -> Prior:
    """Return the prior of "name", "name:value,option=value" or `package.module:Class`.

    It is in eval mode, on the CPU. What it draws as it is built is always the same.

    What is no `Prior` but has `latent_dim`, `image_shape` and `decode` is taken as one (`adopt`), and so is
    a network with its weights: "package.module:Generator,weights=G.pth,range=tanh" (`OwnNetwork`).

    Raises:
        UnknownNameError: a name or an option that is not known.
        InputError: an option is missing or of the wrong kind, or what was found is no prior.
        WeightsError: its weights are missing, cut short or altered.
    """
    factory, text = priors.resolve(specification)
    with global_stream(stream_seed(0, "prior")):
        if specification.partition(":")[0] in priors:
            made = build(f"prior {specification!r}", factory, text)
        else:
            made = load_own(specification, factory, text)
        return adopt(made, specification).eval()
