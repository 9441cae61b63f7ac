"""Batch statistics: what an update implies equals the batch's own, and is matched beside the gradient."""

import copy
import re

import pytest
import torch
from torch import nn

import ggl
from ggl.attacks.inversion import attack_many
from ggl.attacks.objectives import GradientMatch, WithStatistics
from ggl.attacks.strategy_choice import StrategyWarning
from ggl.attacks.target import Target
from ggl.base.errors import InputError
from ggl.base.weights import save_tensors
from ggl.benchmarks.studies.victim_states import normalized_lenet
from ggl.captures.batch_statistics import implied_statistics
from ggl.gradients.batch_statistics import BatchStatistics, StatisticsMatch, statistics_of


def network(momentum=0.1):
    torch.manual_seed(0)
    model = normalized_lenet(in_channels=1, num_classes=10, image_size=32)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = momentum
    return model.train()


def state_of(model):
    return copy.deepcopy(model.state_dict())


def train(model, batches, rate=0.1):
    for images, labels in batches:
        model.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad


def batches(data, size, count=1):
    return [
        (data.images[i * size : (i + 1) * size], data.labels[i * size : (i + 1) * size]) for i in range(count)
    ]


def moments(model, images):
    """Return every layer's mean and variance by a hook each, the slow way."""
    copied, inputs = copy.deepcopy(model), {}
    for name, layer in copied.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(lambda _, x, __, name=name: inputs.update({name: x[0]}))
    copied(images)
    return {name: (x.mean((0, 2, 3)), x.transpose(0, 1).flatten(1).var(1)) for name, x in inputs.items()}


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_one_step_implies_the_batch_statistics(data, size, momentum):
    model = network(momentum)
    train(model, batches(data, 8))  # running statistics that are no longer 0 and 1
    before, expected = state_of(model), moments(model, data.images[:size])
    train(model, batches(data, size))
    found, reason = implied_statistics(model, before, state_of(model))
    assert reason == ""
    assert found is not None
    assert found.steps == 1
    assert found.means.keys() == expected.keys() == {"body.1", "body.4", "body.7"}
    for name, (mean, variance) in expected.items():
        torch.testing.assert_close(found.means[name], mean, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.variances[name], variance, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_several_steps_imply_a_weighted_mean(data, momentum):
    model = network(momentum)
    before, steps = state_of(model), batches(data, 4, 3)
    each = []
    for batch in steps:
        each.append(moments(model, batch[0])["body.1"][0])
        train(model, [batch])
    found, _ = implied_statistics(model, before, state_of(model))
    weights = torch.ones(3) if momentum is None else (1 - momentum) ** torch.tensor([2.0, 1.0, 0.0])
    expected = (torch.stack(each) * (weights / weights.sum())[:, None]).sum(0)
    torch.testing.assert_close(found.means["body.1"], expected, rtol=1e-3, atol=1e-5)
    assert found.steps == 3
    with pytest.raises(InputError, match="statistics of one local step to match, found a mean over 3"):
        StatisticsMatch(model, found)


def test_statistics_of_a_batch_leave_the_model_as_it_is(data):
    model = network().eval()
    before = state_of(model)
    found = statistics_of(model, data.images[:4])
    for name, (mean, variance) in moments(model.train(), data.images[:4]).items():
        torch.testing.assert_close(found.means[name], mean)
        torch.testing.assert_close(found.variances[name], variance)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def no_normalization(_):
    model = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
    return model, state_of(model), state_of(model), "no batch normalization that keeps running statistics"


def nothing_sent(_):
    model = network()
    sent = {name: p for name, p in state_of(model).items() if "running" not in name}
    return model, state_of(model), sent, "holds no 'body.1.running_mean': the client does not send"


def eval_mode(data):
    model = network().eval()
    before = state_of(model)
    train(model, batches(data, 4))
    return (
        model,
        before,
        state_of(model),
        "did not move: the client trained in eval mode, or does not send them",
    )


def another_momentum(data):
    model = network(0.9)
    before = state_of(model)
    train(model, batches(data, 4))
    return network(0.1), before, state_of(model), "variance of -.*did not move by a momentum of 0.1 in 1 step"


@pytest.mark.parametrize("case", [no_normalization, nothing_sent, eval_mode, another_momentum])
def test_where_nothing_is_implied_the_reason_is_said(data, case):
    model, before, after, message = case(data)
    found, reason = implied_statistics(model, before, after)
    assert found is None
    assert re.search(message, reason)


def test_the_term_is_zero_at_the_truth_and_the_same_for_one_candidate_or_many(data):
    model = network()
    match = StatisticsMatch(model, statistics_of(model, data.images[:2]))
    candidates = data.images[:6].view(3, 2, 1, 32, 32)
    found = match(candidates)
    assert float(found[0]) < 1e-5 < 1e-2 < float(found[1:].min())
    torch.testing.assert_close(found, torch.cat([match(one[None]) for one in candidates]))
    own, other = statistics_of(model, data.images[:2]), moments(model, data.images[2:4])
    terms = []
    for name, (mean, variance) in other.items():
        terms.append((mean - own.means[name]).norm() / own.variances[name].sqrt().norm())
        terms.append((variance - own.variances[name]).norm() / own.variances[name].norm())
    torch.testing.assert_close(found[1], torch.stack(terms).mean())


def test_a_search_is_told_the_sum_and_finds_nearer_statistics(data, prior):
    model = network()
    oracle = ggl.GradientOracle(model)
    images, labels = data.images[:1], data.labels[:1]
    shared, seen = oracle.observe(images, labels), statistics_of(model, images)
    options = {"prior": prior, "strategy": "cma-es", "budget": 160}
    plain, told = (attack_many(oracle, [Target("a", shared, labels, s)], **options)[0] for s in (None, seen))
    match = StatisticsMatch(oracle.model, seen)
    assert float(match(told.images[None])) < float(match(plain.images[None]))
    gradient = oracle.score(told.images[None], labels, shared, "cosine")
    assert told.loss == pytest.approx(float(gradient + 0.3 * match(told.images[None])), abs=0.05)


def test_the_objective_is_the_weighted_sum(data):
    model = network()
    oracle = ggl.GradientOracle(model)
    shared = oracle.observe(data.images[:2], data.labels[:2])
    plain = GradientMatch(
        oracle, [oracle.prepare(ggl.load_defense("none").view(shared, "naive"))] * 2, "cosine"
    )
    matches = [StatisticsMatch(model, statistics_of(model, data.images[k : k + 2])) for k in (0, 2)]
    candidates, labels = data.images[:6].view(3, 2, 1, 32, 32), data.labels[:6].view(3, 2)
    found = WithStatistics(plain, matches, 0.3)(candidates, labels, [0, 1], [1, 2])
    expected = plain(candidates, labels, [0, 1], [1, 2])
    expected = expected + 0.3 * torch.cat([matches[0](candidates[:1]), matches[1](candidates[1:])])
    torch.testing.assert_close(found, expected)


def test_statistics_give_no_residuals_and_auto_says_so(data, prior):
    model = network()
    oracle = ggl.GradientOracle(model)
    shared, seen = oracle.observe(data.images[:1], data.labels[:1]), statistics_of(model, data.images[:1])
    with pytest.warns(
        StrategyWarning, match="cma-es, not gauss-newton: a batch's statistics are matched too"
    ):
        ggl.attack(oracle, shared, data.labels[:1], prior=prior, budget=32, statistics=seen)


@pytest.mark.parametrize("local", [None, ggl.LocalTraining(2, 0.1)])
def test_what_cannot_be_matched_is_refused(data, prior, local):
    model = network()
    oracle = ggl.GradientOracle(model, local=local)
    shared, labels = oracle.observe(data.images[:1], data.labels[:1]), data.labels[:1]
    seen = statistics_of(model, data.images[:1])
    second = Target("b", shared, labels, None if local is None else seen)
    message = "of every target, or of none" if local is None else "expected one local step of a victim"
    with pytest.raises(InputError, match=message):
        attack_many(oracle, [Target("a", shared, labels, seen), second], prior=prior, budget=32)
    with pytest.raises(InputError, match=r"batch normalization .body.1, body.4, body.7., found layer9"):
        StatisticsMatch(model, BatchStatistics({"layer9": torch.ones(1)}, {"layer9": torch.ones(1)}))


def test_a_captured_update_gives_its_batch_away(data, tmp_path):
    model = network()
    save_tensors(tmp_path / "before.safetensors", state_of(model))
    victim, expected = copy.deepcopy(model), statistics_of(model, data.images[:4])
    train(model, batches(data, 4))
    save_tensors(tmp_path / "after.safetensors", state_of(model))
    files = (tmp_path / "before.safetensors", tmp_path / "after.safetensors")
    captured = ggl.captured_update(victim, *files, learning_rate=0.1)
    found, _ = implied_statistics(captured.victim, captured.before, captured.after)
    for name, mean in expected.means.items():
        torch.testing.assert_close(found.means[name], mean, rtol=1e-3, atol=1e-5)
    match = StatisticsMatch(captured.victim, found)
    assert float(match(data.images[None, :4])) < 1e-3 < 1e-1 < float(match(data.images[None, 4:8] / 255))
