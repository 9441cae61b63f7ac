"""Weights of other networks, told by the names of their tensors, and what to do with them."""

import re
from collections.abc import Iterable

__all__ = ["OWN_PRIOR", "format_of"]

OWN_PRIOR = "give the network itself, MODULE:CLASS,weights=FILE, or write an own prior (docs/add-a-prior.md)"
"""The way on with a generator whose class one has."""

DIFFUSION = (
    "a generator of one pass is what a prior is, so that diffusion needs an own prior over a sampler "
    "(docs/add-a-prior.md)"
)

FORMATS: dict[str, tuple[tuple[str, ...], str]] = {
    "StyleGAN3": (
        (r"(^|\.)synthesis\.input\.(freqs|transform|weight)$",),
        f"StyleGAN3 is not read, only StyleGAN2 is: {OWN_PRIOR}",
    ),
    "StyleGAN2 under NVIDIA's names": (
        (r"(^|\.)synthesis\.b4\.const$",),
        "save its generator as .safetensors and use stylegan2:FILE",
    ),
    "rosinality's StyleGAN2": ((r"(^|\.)input\.input$", r"(^|\.)to_rgb1\."), "use stylegan2:FILE"),
    "StyleGAN (the first)": (
        (r"(^|\.)(progression\.\d+\.adain|g_synthesis\.|.*\.epi1\.)",),
        f"it is not read: {OWN_PRIOR}",
    ),
    "BigGAN-PyTorch's BigGAN (ajbrock)": (
        (r"(^|\.)blocks\.\d+\.\d+\.conv1\.(weight|u0|sv0)$", r"(^|\.)output_layer\."),
        f"its layers carry spectral norms and class-conditional normalizations: {OWN_PRIOR}; of the other "
        "BigGAN, biggan-deep, published weights are read",
    ),
    "BigGAN-deep of pytorch-pretrained-biggan": (
        (r"(^|\.)generator\.gen_z\.", r"(^|\.)embeddings\.weight$"),
        "use biggan-deep:weights=FOLDER",
    ),
    "a progressive GAN": (
        (r"(^|\.)(scaleLayers|toRGBLayers|groupScale0|rgb_converters)\.", r"(^|\.)progression(_\d+)?\."),
        f"it is not read: {OWN_PRIOR}",
    ),
    "a diffusion UNet (diffusers)": ((r"(^|\.)time_embedding\.linear_1\.",), DIFFUSION),
    "a latent diffusion checkpoint (CompVis)": (
        (r"^model\.diffusion_model\.", r"^first_stage_model\."),
        DIFFUSION,
    ),
    "a diffusion UNet (guided-diffusion)": (
        (r"(^|\.)time_embed\.0\.", r"(^|\.)input_blocks\.0\."),
        DIFFUSION,
    ),
    "a diffusion model (denoising-diffusion-pytorch)": (
        (r"(^|\.)(sqrt_)?alphas_cumprod$", r"(^|\.)time_mlp\.\d+\."),
        DIFFUSION,
    ),
    "an autoencoder of a diffusion model (VAE)": (
        (r"(^|\.)decoder\.(mid_block|up_blocks|mid|up)\.",),
        "its latents are maps, not standard normal vectors: "
        "write an own prior over its decoder, docs/add-a-prior.md",
    ),
    "a discriminator": ((r"(^|\.)(adv_layer|netD|discriminator|critic)\.",), "give the generator's weights"),
    "a transformer": ((r"(^|\.)(in_proj_weight|pos_embed|position_embeddings?(\.weight)?)$",), OWN_PRIOR),
}
"""Names of formats: patterns of tensors' names of which one is in every such file, and what to do."""


def format_of(names: Iterable[str]) -> str | None:
    """Return which format's tensors bear such names, and what to do with it; None where it is none of these.

    >>> format_of(["main.0.weight"]) is None
    True
    """
    found = list(names)
    for title, (patterns, advice) in FORMATS.items():
        if any(re.search(pattern, name) for pattern in patterns for name in found):
            return f"the tensors of {title}; {advice}"
    return None
