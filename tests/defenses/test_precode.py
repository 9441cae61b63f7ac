"""PRECODE, CVB and PPP: where they stand, which parameters are stochastic, and what attackers compare."""

import math

import pytest
import torch
from torch import nn

from ggl.attacks.analytic import find_first_linear, first_linear_fits
from ggl.base.errors import InputError, UnknownNameError
from ggl.defenses import Client, load_defense
from ggl.defenses.bottleneck import ConvolutionalBottleneck, VariationalBottleneck
from ggl.defenses.noise import GaussianNoise
from ggl.defenses.ppp import PPP
from ggl.defenses.precode import CVB, Precode
from ggl.defenses.pruning import LayerPruning
from ggl.defenses.stochastic import (
    gradient_cosines,
    mean_encoders,
    stochastic_names,
    stochastic_parameters,
)
from ggl.gradients import GradientOracle, Mask, Trial
from ggl.victims import load_victim

CLASSES, SIDE = 5, 8
SMALL = Precode(8)


def victim(name, in_channels=3, side=SIDE):
    return load_victim(name, in_channels=in_channels, num_classes=CLASSES, image_size=side)


def images(n, seed=0):
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def names_in(model, *prefixes):
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


MLP_STOCHASTIC = {
    f"fc.{layer}.{kind}"
    for layer in ("bottleneck.deviation", "bottleneck.decoder", "layer")
    for kind in ("weight", "bias")
}


def test_the_stochastic_parameters_of_the_mlp():
    assert stochastic_names(SMALL.wrap(victim("mlp"))) == MLP_STOCHASTIC


def test_they_are_those_whose_gradients_differ_from_draw_to_draw():
    """Among all of the untrained MLP the bottleneck's μ encoder is next to deterministic."""
    wrapped, x, y = Precode().wrap(victim("mlp")), images(1), torch.tensor([2])
    assert stochastic_parameters(wrapped, x, y, draws=8) == MLP_STOCHASTIC
    cosines = gradient_cosines(wrapped, x, y, draws=8)
    assert cosines["fc.bottleneck.mean"] > 0.98
    assert abs(cosines["fc.bottleneck.deviation"]) < 0.1
    assert all(0.5 < cosines[layer] < 0.98 for layer in ("body.1", "body.3"))


def test_the_cosines_are_the_means_over_all_pairs():
    wrapped, x, y = SMALL.wrap(victim("mlp")), images(1), torch.tensor([2])
    oracle = GradientOracle(wrapped, backend="sequential")
    draws = [oracle.observe(x, y, seed=seed) for seed in range(3)]
    layer = "fc.layer"
    rows = [torch.cat([g[f"{layer}.weight"].flatten(), g[f"{layer}.bias"]]) for g in draws]
    pairs = [torch.cosine_similarity(rows[a], rows[b], dim=0) for a, b in ((0, 1), (0, 2), (1, 2))]
    found = gradient_cosines(wrapped, x, y, draws=3)[layer]
    assert found == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-6)


def test_a_layer_without_a_gradient_is_not_stochastic():
    model = victim("mlp")
    model.add_module("unused", nn.Linear(3, 3))
    wrapped = Precode(8, layer="fc").wrap(model)
    assert gradient_cosines(wrapped, images(1), torch.tensor([0]), draws=2)["unused"] == 1.0
    assert stochastic_names(wrapped) == MLP_STOCHASTIC


def test_one_draw_has_nothing_to_compare():
    with pytest.raises(InputError) as error:
        gradient_cosines(SMALL.wrap(victim("mlp")), images(1), torch.tensor([0]), draws=1)
    assert str(error.value) == "expected at least 2 noise draws to compare, found 1"


@pytest.mark.parametrize(
    ("name", "in_channels", "side"),
    [
        ("mlp", 1, 28),
        ("lenet", 3, 8),
        ("lenet", 1, 20),
        ("convnet", 3, 16),
        ("resnet18", 3, 8),
        ("vit", 3, 16),
    ],
)
def test_precode_stands_before_the_classifier_whatever_the_images(name, in_channels, side):
    wrapped = SMALL.wrap(victim(name, in_channels, side))
    assert isinstance(wrapped.fc.bottleneck, VariationalBottleneck)
    expected = names_in(wrapped, "fc.bottleneck.deviation", "fc.bottleneck.decoder", "fc.layer")
    assert stochastic_names(wrapped) == expected
    assert mean_encoders(wrapped) == {"fc.bottleneck.mean.weight", "fc.bottleneck.mean.bias"}


@pytest.mark.parametrize(
    ("name", "layer", "earlier"),
    [
        ("lenet", "body.2", ("body.0",)),
        ("convnet", "body.3", ("body.0",)),
        ("resnet18-groupnorm", "layer2", ("conv1", "bn1", "layer1")),
    ],
)
def test_cvb_stands_after_the_first_block(name, layer, earlier):
    wrapped = CVB().wrap(victim(name))
    assert isinstance(wrapped.get_submodule(layer).bottleneck, ConvolutionalBottleneck)
    kept = names_in(wrapped, *earlier, f"{layer}.bottleneck.mean")
    assert stochastic_names(wrapped) == names_in(wrapped, "") - kept


def test_a_bottleneck_on_the_tokens_makes_the_later_blocks_stochastic():
    wrapped = Precode(8, layer="blocks.2.mlp.0").wrap(victim("vit"))
    earlier = ("patches", "positions", "blocks.0", "blocks.1", "blocks.2.norm", "blocks.2.attention")
    kept = names_in(wrapped, *earlier, "blocks.2.mlp.0.bottleneck.mean")
    assert stochastic_names(wrapped) == names_in(wrapped, "") - kept


class Backwards(nn.Module):
    """Holds its layers in another order than it runs them, and one branch around the middle."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, CLASSES)
        self.middle = nn.Linear(6, 6)
        self.around = nn.Linear(6, 6)
        self.first = nn.Linear(3 * SIDE * SIDE, 6)

    def forward(self, x):
        x = self.first(x.flatten(1)).tanh()
        middle = self.middle(x)
        return self.head(middle + self.around(x))


def test_what_counts_is_what_a_layer_reads():
    wrapped = Precode(4, layer="middle").wrap(Backwards())
    kept = names_in(wrapped, "first", "around", "middle.bottleneck.mean")
    assert stochastic_names(wrapped) == names_in(wrapped, "") - kept


def test_images_that_are_not_square():
    """No usual shape fits: the order of the layers decides, and the shape, where it is given."""

    def network():
        convolutions = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)
        return SMALL.wrap(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(4 * 7 * 3, CLASSES)))

    model = network()
    expected = names_in(model, "4.bottleneck.deviation", "4.bottleneck.decoder", "4.layer")
    assert stochastic_names(model) == expected
    assert stochastic_names(network(), (3, 11, 7)) == expected


def test_two_bottlenecks_make_the_second_ones_encoder_stochastic():
    wrapped = SMALL.wrap(CVB(3).wrap(victim("lenet")))
    assert stochastic_names(wrapped) == names_in(wrapped, "") - names_in(
        wrapped, "body.0", "body.2.bottleneck.mean"
    )


def test_a_victim_that_samples_nothing_is_refused():
    with pytest.raises(InputError) as error:
        stochastic_names(victim("mlp"))
    assert str(error.value) == (
        "expected a victim with a sampled layer, as a defense's wrap() returns it, found MLP without one"
    )


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("cvb", (16, 32, 5)),
        ("cvb:3", (16, 32, 3)),
        ("cvb:kernel=1,channels=7", (7, 32, 1)),
        ("cvb:layer=body.0", (8, 3, 5)),
    ],
)
def test_the_sizes_of_cvb(text, sizes):
    name, _, options = text.partition(":")
    defense = load_defense(f"ggl.defenses.precode:CVB:{options}" if options else "ggl.defenses.precode:CVB")
    assert name == "cvb"
    wrapped = defense.wrap(victim("convnet"))
    (mean,) = (p for key, p in wrapped.named_parameters() if key.endswith("bottleneck.mean.weight"))
    assert (mean.shape[0], mean.shape[1], mean.shape[2]) == sizes


NAMES = {
    "Precode": [
        "precode:256,beta=0.001",
        "precode:16,beta=1e-05,layer=body.3",
        "precode:8,beta=0",
    ],
    "CVB": ["cvb:5,beta=0.1", "cvb:3,beta=5e-05,channels=4,layer=body.4"],
    "PPP": [
        "ppp:noise=0.1,size=256,beta=0.001",
        "ppp:prune=0.9,size=8,beta=0.01,layer=fc,mu=0",
        "ppp:prune=0,size=8,beta=0.01",
    ],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in NAMES for name in NAMES[kind]])
def test_the_name_loads_the_same_defense_again(kind, name):
    module = "ppp" if kind == "PPP" else "precode"
    options = name.partition(":")[2]
    defense = load_defense(f"ggl.defenses.{module}:{kind}:{options}")
    assert defense.name == name


def test_the_defaults_are_the_papers():
    assert Precode().name == "precode:256,beta=0.001"
    assert CVB().name == "cvb:5,beta=0.1"
    assert PPP(noise=0.1).name == "ppp:noise=0.1,size=256,beta=0.001"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Precode(0), "precode: expected size to be at least 1, found 0"),
        (lambda: Precode(beta=-1.0), "precode: expected beta to be at least 0, found -1"),
        (lambda: Precode(beta=math.nan), "precode: expected beta to be at least 0, found nan"),
        (lambda: CVB(4), "cvb: expected an odd kernel, found 4"),
        (lambda: CVB(-1), "cvb: expected kernel to be at least 1, found -1"),
        (lambda: CVB(channels=0), "cvb: expected channels to be at least 1, found 0"),
        (lambda: CVB(beta=math.inf), "cvb: expected beta to be at least 0, found inf"),
        (
            lambda: PPP(),
            "ppp: expected one of noise and prune, found neither; such as ppp:noise=0.1 or ppp:prune=0.9",
        ),
        (
            lambda: PPP(noise=0.1, prune=0.9),
            "ppp: expected one of noise and prune, found both; such as ppp:noise=0.1 or ppp:prune=0.9",
        ),
        (lambda: PPP(prune=1.0), "prune: expected a share from 0 to below 1, found 1"),
        (
            lambda: Precode().wrap(nn.Conv2d(3, 3, 3)),
            "precode: expected a victim with a linear layer, found Conv2d",
        ),
        (
            lambda: CVB().wrap(victim("vit")),
            "cvb: expected a victim with at least two convolutions, such as lenet, found ViT with 1; "
            "use precode",
        ),
        (
            lambda: Precode(layer="body.0").wrap(victim("lenet")),
            "no linear layer is named 'body.0'; known: fc",
        ),
        (
            lambda: CVB(layer="fc").wrap(victim("lenet")),
            "no convolutional layer is named 'fc'; known: body, body.0, body.2, body.4",
        ),
        (
            lambda: CVB(layer="").wrap(victim("mlp")),
            "no convolutional layer is named ''; known: ",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("defense", "joined"),
    [(Precode(8), Trial()), (CVB(), Trial(redrawn=True)), (PPP(noise=0.1), Trial())],
    ids=["precode", "cvb", "ppp"],
)
def test_how_attackers_make_trial_gradients(defense, joined):
    assert {attacker: defense.trial(attacker) for attacker in defense.attackers} == {
        "naive": Trial(redrawn=True, regularized=False),
        "matched": Trial(redrawn=True),
        "expectation": Trial(draws=4),
        "ignore": Trial(redrawn=True),
        "adaptive": joined,
        "informed": joined,
    }


def shared_by(defense, model, seed=0, n=1):
    """Return a client of the wrapped victim, and what it shares."""
    client = Client(GradientOracle(model, backend="sequential"), images(n), torch.arange(n), seed=seed)
    return client, defense.share(client, torch.Generator().manual_seed(seed))


def test_precode_shares_its_gradient_as_it_is():
    client, shared = shared_by(SMALL, SMALL.wrap(victim("mlp")))
    gradient = client.gradient()
    assert list(shared) == list(gradient)
    assert all(torch.equal(shared[name], gradient[name]) for name in gradient)


def test_which_parameters_attackers_leave_out():
    model = SMALL.wrap(victim("mlp"))
    _, shared = shared_by(SMALL, model)
    for attacker in ("naive", "matched", "expectation", "ignore"):
        view = SMALL.view(shared, attacker, model)
        assert (view.steps, view.both) == ((), ())
        assert view.ignored == (MLP_STOCHASTIC if attacker == "ignore" else frozenset())


@pytest.mark.parametrize("attacker", ["adaptive", "informed"])
@pytest.mark.parametrize("defense", [SMALL, PPP(noise=0.0, size=8)])
@pytest.mark.parametrize("name", ["mlp", "lenet", "convnet", "vit"])
def test_who_adapts_compares_the_representation(name, attacker, defense):
    """What the last layer read of the bare victim, exactly, whatever noise the client drew."""
    bare = victim(name)
    model = defense.wrap(bare)
    for seed in range(3):
        client, shared = shared_by(defense, model, seed=seed)
        view = defense.view(shared, attacker, model)
        (found,) = view.goal.values()
        expected = bare.features(client.images)[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert view.distance == "l2"
        assert client.oracle.score(client.images, client.labels, view).item() < 1e-6 * expected.square().sum()


def test_who_adapts_to_ppps_pruning_reads_it_off_what_was_left():
    defense = PPP(prune=0.7, size=64)
    bare = victim("mlp")
    model = defense.wrap(bare)
    client, shared = shared_by(defense, model)
    (found,) = defense.view(shared, "adaptive", model).goal.values()
    expected = bare.features(client.images)[0]
    there = found != 0
    assert there.float().mean() > 0.5 * (expected != 0).float().mean()
    torch.testing.assert_close(found[there], expected[there], rtol=1e-3, atol=1e-4)


def test_cvb_has_no_bias_to_read_by():
    model = CVB(3, channels=4).wrap(victim("lenet"))
    _, shared = shared_by(CVB(3, channels=4), model)
    view = CVB(3, channels=4).view(shared, "adaptive", model)
    assert view.both == ()
    assert view.ignored
    assert CVB().trial("adaptive") == CVB().trial("ignore")


def test_the_published_list_of_cvb_keeps_both_encoders():
    """CVB's CNN leaves out `decoder, 1.conv, 2.conv, mlp_layers`: not the σ encoder before the decoder."""
    model = CVB(3, channels=4).wrap(victim("lenet"))
    _, shared = shared_by(CVB(3, channels=4), model)
    published = CVB(3, channels=4).view(shared, "ignore", model).ignored
    assert shared.keys() - published == {
        *("body.0.weight", "body.0.bias"),
        *("body.2.bottleneck.mean.weight", "body.2.bottleneck.deviation.weight"),
    }
    adaptive = CVB(3, channels=4).view(shared, "adaptive", model).ignored
    assert adaptive - published == {"body.2.bottleneck.deviation.weight"}


@pytest.mark.parametrize("attacker", ["ignore", "adaptive", "informed"])
@pytest.mark.parametrize("model", [None, victim("mlp")])
def test_who_looks_for_the_bottleneck_needs_the_wrapped_model(attacker, model):
    with pytest.raises(InputError) as error:
        Precode().view({"w": torch.ones(2)}, attacker, model)
    found = "none" if model is None else "a MLP without a bottleneck"
    assert str(error.value) == (
        "defense precode:256,beta=0.001: expected the victim as wrap() returns it, for this attacker to find "
        f"the bottleneck in; found {found}"
    )


def test_an_unknown_attacker_is_refused():
    with pytest.raises(UnknownNameError, match="no attacker is named 'ignored'; did you mean 'ignore'"):
        SMALL.view({"w": torch.ones(2)}, "ignored")


def test_the_first_layers_gradient_gives_the_image_away_all_the_same():
    """At batch size 1 the bottleneck hides nothing: the gradient of a linear layer is an outer product."""
    wrapped, x = Precode().wrap(victim("mlp")), images(6)
    oracle = GradientOracle(wrapped, backend="sequential")
    layer = find_first_linear(wrapped, (3, SIDE, SIDE))
    assert layer == "body.1"
    for i, image in enumerate(x):
        shared = oracle.observe(image[None], torch.tensor([i % CLASSES]), seed=i)
        found = first_linear_fits(shared, layer, (3, SIDE, SIDE))[0]
        assert float((found - image).norm() / image.norm()) <= 1e-4


@pytest.mark.parametrize("mu", [True, False])
@pytest.mark.parametrize(
    ("options", "perturbation"), [({"noise": 0.3}, GaussianNoise(0.3)), ({"prune": 0.7}, LayerPruning(0.7))]
)
def test_ppp_perturbs_what_is_deterministic_and_nothing_else(options, perturbation, mu):
    defense = PPP(**options, size=8, mu=mu)
    client, shared = shared_by(defense, defense.wrap(victim("mlp")), seed=3)
    gradient = client.gradient()
    earlier = ("body", "fc.bottleneck.mean") if mu else ("body",)
    chosen = {name: g for name, g in gradient.items() if name.startswith(earlier)}
    expected = gradient | perturbation.protect(chosen, torch.Generator().manual_seed(3))
    assert list(shared) == list(gradient)
    assert all(torch.equal(shared[name], expected[name]) for name in gradient)
    assert not torch.equal(shared["body.1.weight"], gradient["body.1.weight"])


def test_ppp_leaves_the_clients_gradient_alone():
    defense = PPP(prune=0.5, size=8)
    client, _ = shared_by(defense, defense.wrap(victim("mlp")))
    given = client.after(client.gradient())
    before = {name: g.clone() for name, g in given.gradient().items()}
    for tensor in defense.share(given, torch.Generator()).values():
        tensor.add_(1)
    assert all(torch.equal(g, before[name]) for name, g in given.gradient().items())


def test_ppp_needs_the_client_and_its_own_victim():
    defense = PPP(noise=0.1)
    with pytest.raises(InputError, match="needs the victim and the batch"):
        defense.protect({"w": torch.ones(2)}, torch.Generator())
    with pytest.raises(InputError, match=r"expected a victim with a sampled layer, as a defense's wrap\(\)"):
        shared_by(defense, victim("mlp"))


def test_a_composition_wraps_shares_and_adapts():
    defense = load_defense("ggl.defenses.precode:Precode:8+prune:0.5")
    model = defense.wrap(victim("mlp"))
    client, shared = shared_by(defense, model)
    pruned = LayerPruning(0.5).protect(client.gradient(), torch.Generator())
    assert all(torch.equal(shared[name], pruned[name]) for name in pruned)
    view = defense.view(shared, "adaptive", model)
    assert [type(step) for step in view.steps] == [Mask]
    assert list(view.goal) == ["fc.bottleneck.mean"]
    assert defense.trial("adaptive") == Trial()
    assert defense.trial("expectation") == Trial(draws=4)
    assert defense.trial("naive") == Trial(redrawn=True, regularized=False)
