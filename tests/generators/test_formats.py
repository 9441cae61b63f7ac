"""What is not read is named, with what to do."""

import pytest
import torch
from test_official_pickle import SETTINGS, official_bytes
from test_stylegan2_layers import random_tensors
from test_stylegan2_prior import to_rosinality

from ggl.base.errors import WeightsError
from ggl.base.weights import save_tensors
from ggl.generators import load_prior

OTHERS = {
    "StyleGAN3": ["synthesis.input.freqs", "synthesis.L0_36_512.weight", "mapping.fc0.weight"],
    "BigGAN-PyTorch": ["shared.weight", "linear.weight", "blocks.0.0.conv1.weight", "output_layer.0.gain"],
    "progressive GAN": [
        "scaleLayers.0.0.module.weight",
        "toRGBLayers.0.module.weight",
        "formatLayer.module.weight",
    ],
    "diffusion UNet (diffusers)": [
        "conv_in.weight",
        "time_embedding.linear_1.weight",
        "down_blocks.0.conv.weight",
    ],
    "denoising-diffusion-pytorch": ["betas", "alphas_cumprod", "model.init_conv.weight"],
    "a progressive GAN": ["layers.0.conv_1.weight", "rgb_converters.0.weight"],
    "diffusion UNet (guided-diffusion)": ["time_embed.0.weight", "input_blocks.0.0.weight"],
    "latent diffusion checkpoint": [
        "model.diffusion_model.time_embed.0.weight",
        "first_stage_model.x.weight",
    ],
    "(VAE)": ["encoder.conv_in.weight", "decoder.up_blocks.0.resnets.0.conv1.weight", "quant_conv.weight"],
    "StyleGAN (the first)": ["progression.0.adain.norm.weight", "to_rgb.0.weight"],
    "a discriminator": ["model.0.weight", "adv_layer.0.weight"],
    "BigGAN-deep": ["generator.gen_z.weight_orig", "embeddings.weight"],
}


@pytest.mark.parametrize("title", OTHERS)
@pytest.mark.parametrize("prior", ["dcgan", "wgan-gp"])
def test_other_formats_are_named(tmp_path, title, prior):
    torch.save({name: torch.ones(4, 4) for name in OTHERS[title]}, tmp_path / "g.pth")
    with pytest.raises(WeightsError) as refusal:
        load_prior(f"{prior}:{tmp_path / 'g.pth'}")
    line = str(refusal.value)
    assert title in line
    assert "docs/add-a-prior.md" in line or "use " in line or "give the generator's" in line
    assert "\n" not in line
    assert "key=" not in line


@pytest.mark.parametrize("title", ["BigGAN-PyTorch", "StyleGAN3", "diffusion UNet (diffusers)"])
def test_the_biggan_prior_names_other_formats_too(tmp_path, title):
    pytest.importorskip("pytorch_pretrained_biggan")
    torch.save({name: torch.ones(4, 4) for name in OTHERS[title]}, tmp_path / "g.pth")
    with pytest.raises(
        WeightsError, match="expected the tensors of BigGAN-deep, found the tensors of"
    ) as refusal:
        load_prior(f"biggan-deep:128,weights={tmp_path / 'g.pth'}")
    assert title in str(refusal.value)


def test_a_stylegan2_is_sent_to_its_prior(tmp_path):
    torch.save(to_rosinality(random_tensors(8)), tmp_path / "g.pt")
    with pytest.raises(
        WeightsError, match=r"found the tensors of rosinality's StyleGAN2; use stylegan2:FILE$"
    ):
        load_prior(f"dcgan:{tmp_path / 'g.pt'}")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_stylegan2_prior_names_other_formats_too(tmp_path, suffix):
    state = {name: torch.ones(4, 4) for name in OTHERS["StyleGAN3"]}
    path = tmp_path / f"g{suffix}"
    torch.save(state, path) if suffix == ".pt" else save_tensors(path, state)
    with pytest.raises(WeightsError, match=r"found the tensors of StyleGAN3; .*docs/add-a-prior.md"):
        load_prior(f"stylegan2:{path}")


@pytest.mark.parametrize("source", ["class SynthesisInput(torch.nn.Module): pass", "raise SystemExit"])
def test_a_stylegan3_pickle_is_named(tmp_path, source):
    """By its tensors; where it asks for something unknown, by the source text in it."""
    tensors = {"synthesis.input.freqs": torch.ones(4, 2), "mapping.fc0.weight": torch.ones(8, 8)}
    odd = {"synthesis.input.transform": torch.device} if "class" in source else {}
    (tmp_path / "g.pkl").write_bytes(official_bytes(tensors, SETTINGS, odd, source=source))
    with pytest.raises(WeightsError, match=r"StyleGAN2(-ADA)? generator, found the tensors of StyleGAN3; "):
        load_prior(f"stylegan2:{tmp_path / 'g.pkl'}")


def test_a_class_conditional_generator_converted_to_rosinalitys_names_is_refused(tmp_path):
    state = to_rosinality(random_tensors(8, classes=3))
    torch.save({"g_ema": state}, tmp_path / "g.pt")
    words = r"g.pt: expected 'style.1.weight' with as many inputs as outputs, found \(16, 32\): "
    with pytest.raises(WeightsError, match=words):
        load_prior(f"stylegan2:{tmp_path / 'g.pt'}")
    torch.save({"g_ema": state | {"embed.weight": torch.ones(16, 3)}}, tmp_path / "g.pt")
    with pytest.raises(WeightsError, match=r"expected a generator without classes, found 'embed.weight'"):
        load_prior(f"stylegan2:{tmp_path / 'g.pt'}")


def test_a_mapping_of_a_class_whose_embedding_is_missing_is_refused(tmp_path):
    tensors = {n: t for n, t in random_tensors(8, classes=3).items() if not n.startswith("mapping.embed")}
    path = tmp_path / "g.safetensors"
    words = r"g.safetensors: expected 'mapping.embed.weight', found none, but 'mapping.fc0.weight' of shape "
    for settings in ({}, {"settings": '{"c_dim": 3, "z_dim": 16}'}):
        save_tensors(path, tensors, settings)
        with pytest.raises(WeightsError, match=words):
            load_prior(f"stylegan2:{path}")
    save_tensors(path, tensors, {"settings": '{"z_dim": 32}'})
    assert load_prior(f"stylegan2:{path}").latent_dim == 32
