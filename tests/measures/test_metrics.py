import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from ggl.base.errors import InputError
from ggl.measures.metrics import (
    METRICS,
    check_pair,
    feature_distance,
    match,
    mse,
    psnr,
    psnr_signed,
    ssim,
    ssim_error,
)


def images(n, c=3, size=32, seed=0):
    return torch.rand(n, c, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def pair(request):
    a = images(4, request.param)
    return a, (a + 0.3 * (images(4, request.param, seed=1) - 0.5)).clamp(0, 1)


def as_skimage(image):
    return image.double().permute(1, 2, 0).numpy()


def test_mse_is_the_mean_of_squared_differences(pair):
    a, b = pair
    expected = [np.mean((as_skimage(x) - as_skimage(y)) ** 2) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(mse(a, b), expected, rtol=1e-5)


def test_psnr_agrees_with_scikit_image(pair):
    expected = [
        peak_signal_noise_ratio(as_skimage(x), as_skimage(y), data_range=1)
        for x, y in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(psnr(*pair), expected, rtol=1e-5)


def test_psnr_signed_is_the_psnr_of_images_in_the_signed_range_with_peak_one(pair):
    a, b = (2 * x - 1 for x in pair)
    torch.testing.assert_close(psnr_signed(*pair), -10 * (a - b).square().flatten(1).mean(1).log10())
    torch.testing.assert_close(psnr(*pair) - psnr_signed(*pair), torch.full((4,), 20 * math.log10(2)))


def test_ssim_agrees_with_scikit_image(pair):
    """Its settings for Wang et al. 2004: Gaussian window, sigma 1.5, population covariance."""
    expected = [
        structural_similarity(
            as_skimage(x),
            as_skimage(y),
            data_range=1,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for x, y in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(ssim(*pair), expected, atol=1e-5)
    np.testing.assert_allclose(ssim_error(*pair), 1 - np.asarray(expected), atol=1e-5)


def test_identical_images():
    a = images(2)
    assert torch.equal(mse(a, a), torch.zeros(2))
    assert torch.equal(psnr(a, a), torch.full((2,), math.inf))
    assert torch.equal(psnr_signed(a, a), torch.full((2,), math.inf))
    torch.testing.assert_close(ssim(a, a), torch.ones(2))
    assert torch.equal(feature_distance(nn.Flatten(), a, a), torch.zeros(2))


def test_black_against_white():
    black, white = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    assert mse(black, white).item() == 1
    assert psnr(black, white).item() == 0
    assert psnr_signed(black, white).item() == pytest.approx(-6.0206, abs=1e-4)


@pytest.mark.parametrize("metric", [mse, psnr, psnr_signed, ssim, ssim_error])
def test_each_pair_is_scored_alone_and_symmetrically(metric, pair):
    a, b = pair
    alone = torch.cat([metric(a[i : i + 1], b[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(metric(a, b), alone)
    torch.testing.assert_close(metric(a, b), metric(b, a))


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(InputError, match="at least 11 x 11 px, found 10 x 10"):
        ssim(images(1, size=10), images(1, size=10))


def test_images_of_different_shapes_are_refused_and_never_broadcast():
    with pytest.raises(InputError, match=r"found \(1, 3, 32, 32\) and \(2, 3, 32, 32\)"):
        check_pair(images(1), images(2))
    with pytest.raises(InputError, match="n, c, h, w"):
        check_pair(images(1)[0], images(1)[0])


def test_feature_distance_compares_what_the_features_keep():
    a, b = images(3), images(3, seed=1)
    torch.testing.assert_close(feature_distance(nn.Identity(), a, b), mse(a, b))
    brightness = feature_distance(lambda x: x.mean((1, 2, 3))[:, None], a, b)
    torch.testing.assert_close(brightness, (a.mean((1, 2, 3)) - b.mean((1, 2, 3))).square())
    assert not feature_distance(nn.Conv2d(3, 2, 3), a, b).requires_grad


@settings(max_examples=20)
@given(st.permutations(range(6)))
def test_match_undoes_a_permutation(permutation):
    private = images(6, 1, 8)
    shuffled = private[torch.tensor(permutation)] * 0.9
    assert torch.equal(shuffled[match(shuffled, private)], private * 0.9)


def test_match_is_one_to_one_though_one_reconstruction_is_nearest_to_all():
    private = torch.tensor([0.5, 0.6]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    reconstructions = torch.tensor([0.58, 0.1]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert match(reconstructions, private).tolist() == [1, 0]


def test_match_refuses_what_has_no_distance():
    with pytest.raises(InputError, match="finite"):
        match(torch.full((2, 1, 4, 4), math.nan), images(2, 1, 4))


def test_metrics_are_keyed_by_their_names_and_errors_are_lower_is_better():
    assert all(name == metric.name for name, metric in METRICS.items())
    errors = {metric.name for metric in METRICS.values() if metric.lower_is_better}
    assert errors == {"mse", "ssim_error", "lpips", "feature_distance"}
