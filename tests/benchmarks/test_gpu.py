"""The script for a GPU, on the CPU: it runs end to end, and says what fails."""

import json
import time

import pytest
import torch

from ggl.benchmarks.reproduce.file import load_reproduction
from ggl.benchmarks.reproduce.plan import plan_of
from ggl.benchmarks.speed import gpu
from ggl.benchmarks.speed.gpu_parts.bench import SIZES, Bench, Outcome, tf32
from ggl.benchmarks.speed.gpu_parts.hours import works_of
from ggl.benchmarks.speed.gpu_parts.timing import medians
from ggl.benchmarks.speed.gpu_parts.variants import Variant, make_limit, make_score, variants_of
from ggl.optimizers import strategies

CPU = torch.device("cpu")


@pytest.fixture
def bench():
    return Bench(CPU, SIZES["tiny"], time.monotonic() + 600)


def rows_of(result, title):
    return next(table["rows"] for table in result["tables"] if table["title"] == title)


def run(tmp_path, *parts):
    file = tmp_path / "gpu.json"
    code = gpu.main(["--device", "cpu", "--tiny", "--only", *parts, "--out", str(file)])
    return code, json.loads(file.read_text())


def test_rates_memory_and_halts_run_on_a_cpu(tmp_path, capsys):
    code, found = run(tmp_path, "rates", "memory", "halts")
    printed = capsys.readouterr().out
    assert code == 0
    assert list(found["parts"]) == ["rates", "memory", "halts"]
    assert all(f"\n## {part}, " in printed for part in found["parts"])
    assert found["size"] == "tiny"
    assert "rates say nothing of a GPU" in found["device"]
    rates = rows_of(found["parts"]["rates"], "Evaluations a second")
    assert {row["precision"] for row in rates} == {"float32", "bf16", "bf16, generator too"}
    for row in rates:
        assert row["share of plain"] == pytest.approx(row["evaluations / s"] / row["plain pass / s"])
    assert rates[0]["largest difference from float32"] == 0 < rates[1]["largest difference from float32"]
    assert "skipped" in found["parts"]["memory"]["notes"][0]
    halts = rows_of(found["parts"]["halts"], "Where the host waits")
    waits = {(row["strategy"], row["during"]): row["waits, by operation"] for row in halts}
    assert waits["cma-es", "decode and score"] == waits["gauss-newton", "decode and score"] == 0
    assert waits["cma-es", "a whole generation"] > 0


@pytest.mark.slow("every strategy, searched, killed and resumed")
def test_the_whole_script_runs_on_a_cpu(tmp_path):
    code, found = run(tmp_path, *gpu.PARTS)
    assert code == 0, found
    assert list(found["parts"]) == list(gpu.PARTS)
    scores = rows_of(found["parts"]["equality"], "Backends: scores and their derivatives")
    assert {row["backend"] for row in scores} == {"sequential", "vmap", "layerwise"}
    resumed = rows_of(found["parts"]["equality"], "Strategies, killed and resumed")
    assert [row["strategy"] for row in resumed] == strategies.names()
    assert {row["resumed to the same"] for row in resumed} == {"yes"}
    loop = rows_of(found["parts"]["loop"], "The published loop and whole searches")
    assert loop[1]["× the loop"] == pytest.approx(loop[1]["evaluations / s"] / loop[0]["evaluations / s"])
    (image,) = rows_of(found["parts"]["image"], "One image, by the default strategy")
    assert 0 < image["evaluations"] <= SIZES["tiny"].budget
    packed = rows_of(found["parts"]["packed"], "Targets side by side")
    assert [row["targets"] for row in packed] == [1, 3, 1, 3]
    hours = rows_of(found["parts"]["hours"], "ggl reproduce ggl --scale paper")
    for row in hours[:-1]:
        assert row["hours"] == pytest.approx(row["evaluations"] / row["evaluations / s"] / 3600)
    assert hours[-1]["hours"] == pytest.approx(sum(row["hours"] for row in hours[:-1]))


def test_a_part_that_fails_is_said_and_the_next_one_runs(monkeypatch, capsys, tmp_path):
    def broken(bench):
        raise ValueError("no such\nkernel")

    monkeypatch.setitem(gpu.PARTS, "rates", broken)
    monkeypatch.setitem(gpu.PARTS, "memory", lambda bench: Outcome(notes=["ran"]))
    code, found = run(tmp_path, "rates", "memory")
    assert code == 1
    assert found["parts"]["rates"]["failures"] == ["ValueError: no such kernel"]
    assert found["parts"]["memory"]["notes"] == ["ran"]
    assert "- FAILED: ValueError: no such kernel" in capsys.readouterr().out


def test_a_part_that_takes_too_long_is_broken_off(monkeypatch, bench):
    def slow(bench):
        try:
            time.sleep(60)
        except Exception:  # noqa: BLE001  what catches errors does not keep it going
            return Outcome()

    def late(bench):
        raise AssertionError

    monkeypatch.setitem(gpu.PARTS, "rates", slow)
    monkeypatch.setitem(gpu.PARTS, "memory", late)
    began = time.monotonic()
    found = gpu.run(bench, ["rates", "memory"], whole=0.2)
    assert time.monotonic() - began < 30
    assert found["rates"]["failures"] == ["TooLongError: broken off after 0 s"]
    assert found["memory"]["failures"] == ["left out: the run's time was over"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cuda:9"], "'cuda:9' is not there"),
        (
            ["--device", "cpu", "--tiny", "--out", "nowhere/gpu.json"],
            "expected a file in a folder that is there",
        ),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(arguments, said, capsys):
    assert gpu.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_times_of_a_run_leave_room_for_the_weights():
    assert sum(SIZES["full"].seconds.values()) <= gpu.WHOLE["full"] - 60 < 480 - 60
    assert sum(SIZES["quick"].seconds.values()) <= gpu.WHOLE["quick"] - 20 < 120 - 20
    assert {*SIZES["full"].seconds} == {*gpu.PARTS}


def test_rounding_is_as_it_was_afterwards():
    def settings():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = settings()
    with tf32(True):
        assert settings() == (True, True)
        with tf32(False):
            assert settings() == (False, False)
        assert settings() == (True, True)
    assert settings() == before


def test_ways_are_measured_of_the_same_losses(bench):
    exact = make_score(bench.small, Variant(4))()
    for variant in variants_of(bench):
        with variant.rounding():
            found = make_score(bench.small, variant)()
        assert (found.float() - exact).abs().max() < 0.02
        assert torch.equal(found, exact) == (variant.precision == "float32")


def test_the_plain_pass_takes_the_victims_gradient(bench):
    case = bench.small
    make_limit(case, Variant(4))()
    gradients = [p.grad for p in case.victim.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)


def test_the_gpu_has_more_ways():
    ways = variants_of(Bench(torch.device("cuda"), SIZES["full"]))
    assert len(ways) == len(set(ways)) == 3 * 3 + 2 + 1 + 2
    assert {way.launch for way in ways} == {"eager", "CUDA graph", "torch.compile"}


def test_turns_end_with_the_time_and_one_is_always_taken():
    calls = []
    found = medians(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU, seconds=-1.0, rounds=5
    )
    assert calls == ["a", "b", "a", "b"]
    assert found.keys() == {"a", "b"}
    medians({"a": lambda: calls.append("c")}, CPU, seconds=60.0, rounds=5)
    assert calls.count("c") == 6


def test_evaluations_of_the_paper_are_counted_whole():
    """Of ImageNet's CMA-ES: five defenses and one attacked anew, ten images, two controls, 40,000 each."""
    works = works_of(plan_of(load_reproduction("ggl"), "paper").specs)
    most = works[0]
    assert most.evaluations == 6 * 10 * 3 * 40_000
    assert most.strategy == "nevergrad-cma-ggl:tanh=0"
    bo = [work for work in works if work.strategy.startswith("turbo")]
    assert [work.evaluations for work in bo] == [10 * 3 * 1000] * 2
    ceilings = {
        work.prior.partition(":")[0]: work.evaluations for work in works if work.strategy.startswith("ceil")
    }
    assert ceilings["biggan-deep"] == 5 * 10 * 2500
