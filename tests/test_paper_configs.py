"""The paper-scale configs: their numbers, and that they pass what can be checked without data."""

import pytest
from commands import run

from jest_tf import check
from jest_tf.config_checks import problems, replica_problems
from jest_tf.configs import flexi_jest_b16, jest_b16, siglip_b16
from jest_tf.devices import TPUS, parse_topology
from jest_tf.errors import UserError
from jest_tf.evaluation.evaluators import checked_options
from jest_tf.preflight.cost import check_memory, plain_step, step_cost
from jest_tf.training.assemble import parts_of
from jest_tf.training.cost import distillation_flops

CONFIGS = {"siglip_b16": siglip_b16, "jest_b16": jest_b16, "flexi_jest_b16": flexi_jest_b16}
STATED = parse_topology("v5p:4x4x8")


@pytest.mark.parametrize("name", CONFIGS)
def test_sound_on_the_stated_slice_and_its_neighbours(name):
    config = CONFIGS[name].get_config()
    assert problems(config) == []
    for chips, hosts in [(STATED.n_chips, STATED.n_hosts), (64, 16), (256, 64)]:
        assert replica_problems(config, hosts, chips) == []
    parts = parts_of(config, STATED.n_chips)
    assert check_memory(config, parts, STATED.n_chips, TPUS["v5p"]).problems == []
    for evaluation, spec in config.evals.items():
        checked_options(evaluation, spec)


def test_sizes_are_the_papers():
    for percent, big in [(50, 65_536), (80, 163_840), (90, 327_680)]:
        s = jest_b16.get_config(f"filter_percent={percent}").selection
        assert (s.super_batch, s.sub_batch, s.n_chunks) == (big, 32_768, 16)
    assert siglip_b16.get_config().total_steps * 32_768 == pytest.approx(3e9, rel=1e-4)


def test_arguments_reach_the_config_that_they_are_for():
    c = flexi_jest_b16.get_config("score_tokens=16,filter_percent=50,seed=3,data=here")
    assert (c.resolution.score.n_tokens, c.selection.super_batch) == (16, 65_536)
    assert (c.seed, c.data.train) == (3, "here")
    with pytest.raises(UserError, match="seeed"):
        flexi_jest_b16.get_config("seeed=3")


def ratio(config):
    parts = parts_of(config, STATED.n_chips)
    cost = step_cost(config, parts, parts.schedule.plan(0), STATED.n_chips)
    return cost, plain_step(config, parts, STATED.n_chips).total_flops


def test_costs_against_plain_training():
    cost, plain = ratio(siglip_b16.get_config())
    assert cost.total_flops == plain
    cost, plain = ratio(jest_b16.get_config())
    # Five times the sub-batch forward, a third of a training step each, through either model.
    assert cost.flops["score_learner"] / plain == pytest.approx(5 / 3, rel=0.03)
    assert cost.flops["score_reference"] == cost.flops["score_learner"]
    cost, plain = ratio(flexi_jest_b16.get_config())
    # Patch 32 costs 0.391 of patch 16 with 64 text tokens.
    assert cost.flops["score_learner"] / plain == pytest.approx(0.391 * 5 / 3, rel=0.03)
    trained = sum(flops for phase, flops in cost.flops.items() if phase.startswith("train"))
    assert trained / plain == pytest.approx((1 + 0.391) / 2, rel=0.03)


def test_distillation_from_a_cache_is_priced_as_the_run_books_it():
    config = jest_b16.get_config()
    config.reference.cache = "a cache"
    costs = []
    for config.reference.distillation in (0.0, 1.0):
        parts = parts_of(config, STATED.n_chips)
        costs.append(step_cost(config, parts, parts.schedule.plan(0), STATED.n_chips).total_flops)
    learner, b = parts.learner, config.selection.sub_batch
    sizes = b, learner.embed_dim, learner.embed_dim
    of_distillation = distillation_flops(*sizes, config.loss, STATED.n_chips)
    assert costs[1] - costs[0] == pytest.approx(of_distillation, rel=1e-6) and of_distillation > 0


def test_check_tells_the_paper_config_on_one_page(capsys):
    """Its time and memory are the figure `check_seconds` of benchmarks.distributed."""
    words = ["--config=jest_b16", "--nodata", "--device=v5p"]
    words += [f"--replicas={STATED.n_chips}", f"--hosts={STATED.n_hosts}"]
    assert run(check, words) == 0
    assert 5 < len(capsys.readouterr().out.splitlines()) < 50
