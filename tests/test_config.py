"""The config: arguments, arithmetic, and messages that a tired user can act on."""

import pathlib
import re

import pytest

from jest_tf import config as config_lib
from jest_tf import config_checks, config_flag, selection_spec
from jest_tf.errors import UserError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def load(name: str, arg: str = ""):
    return config_flag.load(CONFIGS / f"{name}.py", arg)


@pytest.fixture
def emoji():
    config = load("emoji")
    config.reference.workdir = "runs/reference"
    return config


def test_a_config_that_is_not_there_is_named():
    with pytest.raises(UserError, match="configs/none.py is not here"):
        config_flag.load("configs/none.py")


def test_arguments_choose_the_experiment():
    config = load("emoji", "policy=independent_top_k,criterion=easy_reference,steps=7,seed=3")
    assert config.selection.policy == "independent_top_k"
    assert config.selection.criterion == "easy_reference"
    assert (config.total_steps, config.seed) == (7, 3)


def test_reference_and_uniform_load_only_what_they_train_on():
    for arg in ("reference", "policy=uniform"):
        selection = load("emoji", arg).selection
        assert selection.policy == "uniform"
        assert selection.super_batch == selection.sub_batch


def test_policies_differ_in_nothing_but_the_policy():
    joint, uniform = load("emoji", "quick"), load("emoji", "quick,policy=uniform")
    keys = config_lib.flat(joint)
    different = {key for key in keys if _get(joint, key) != _get(uniform, key)}
    assert different == {"name", "selection.policy", "selection.super_batch"}


def _get(config, dotted: str):
    for part in dotted.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize(
    ("arg", "expected"),
    [("polcy=uniform", "policy"), ("steps=many", "int"), ("quick=perhaps", "true or false")],
)
def test_wrong_argument_names_the_valid_one(arg, expected):
    with pytest.raises(UserError, match=expected):
        load("emoji", arg)
    with pytest.raises(UserError, match="sub_batch=0: expected at least 1"):
        load("your_data", "sub_batch=0")


@pytest.mark.parametrize("name", ["tune", "your_data"])
def test_lanes_share_the_super_batch_of_any_size(name):
    for policy, least in (("uniform", 17 / 16), ("joint", 5)):
        for sub_batch in (16, 48, 64, 100, 128, 272, 1000):
            config = load(name, f"policy={policy},sub_batch={sub_batch}")
            loaded = config.selection.super_batch
            assert least * sub_batch <= loaded < least * sub_batch + config.data.n_lanes
            assert not any("n_lanes" in line for line in config_checks.problems(config))


def test_shipped_config_is_sound(emoji):
    assert config_checks.problems(emoji) == []


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("selection.sub_batch", 130, "128 or 144"),
        ("selection.sub_batch", 1280, "larger than"),
        ("selection.super_batch", 644, "640 or 648"),
        ("selection.policy", "jiont", "did you mean 'joint'"),
        ("selection.criterion", "learnabilty", "did you mean 'learnability'"),
        ("selection.temperature", 0.0, "positive"),
        ("selection.learner_weight", -1.0, "positive"),
        ("selection.n_chunks", 0, "at least 1"),
        ("reference.workdir", "", "needs a reference"),
        ("data.train", "", "data.train is empty"),
        ("model.patch_size", 7, "not divisible"),
        ("optimizer.warmup_steps", 1500, "leaves nothing"),
        ("data.augment", ("flop",), "did you mean 'flip'"),
        ("strategy.kind", "gpu", "Valid: default"),
        ("profile.steps", "10:15", "such as 10-15"),
        ("profile.steps", "15-10", "not lower"),
        ("seed", -1, "not negative"),
        ("optimizer.learning_rate", float("inf"), "positive number"),
        ("optimizer.beta_2", 1.0, "a decay"),
        ("checkpoint.every_steps", -1, "not negative"),
        ("log.max_refused_steps", 0, "at least 1"),
        ("data.max_bad_share", 2.0, "a share, 0 to 1"),
        ("data.vocab_size", 0, "at least 8 tokens"),
    ],
)
def test_each_problem_names_field_value_and_fix(emoji, field, value, expected):
    parents, _, last = field.rpartition(".")
    node = _get(emoji, parents) if parents else emoji
    with node.ignore_type():
        node[last] = value
    found = config_checks.problems(emoji)
    assert any(field in line and expected in line for line in found), found


def test_a_field_that_is_none_is_named(emoji):
    emoji.total_stepss = 5  # configs are locked after their files ran
    emoji.optimizer.lr = 0.1
    found = config_checks.problems(emoji)
    assert found[0].startswith("optimizer.lr is no field of a config")
    assert found[1].startswith("total_stepss is no field of a config (did you mean 'total_steps'?)")
    assert len(found) == 2


def test_a_weight_that_nothing_uses_is_refused(emoji):
    emoji.selection.learner_weight = 0.5
    assert config_checks.problems(emoji) == []
    emoji.selection.criterion = "easy_reference"
    assert "selection.learner_weight = 0.5 has no meaning" in config_checks.problems(emoji)[0]


def test_distillation_needs_a_reference_under_any_policy(emoji):
    emoji.selection.policy, emoji.reference.workdir = "uniform", ""
    emoji.selection.super_batch = emoji.selection.sub_batch
    assert config_checks.problems(emoji) == []
    emoji.reference.distillation = 0.5
    (found,) = config_checks.problems(emoji)
    assert "reference.distillation = 0.5 needs a reference model" in found
    assert "--config.reference.workdir" in found
    emoji.reference.distillation = -1.0
    (found,) = config_checks.problems(emoji)
    assert "reference.distillation is -1.0" in found


def test_sizes_against_the_data_are_told(emoji):
    s = emoji.selection
    assert config_checks.data_problems(emoji, s.super_batch) == []
    (told,) = config_checks.data_problems(emoji, s.super_batch - 1)
    assert f"a step loads {s.super_batch:,} pairs, and there are {s.super_batch - 1:,}" in told
    emoji.total_steps = 10**6
    assert "learn them by heart" in config_checks.data_problems(emoji, s.super_batch)[0]


def test_a_prefilter_that_reads_more_than_there_is_is_told(emoji):
    s, emoji.data.prefilter = emoji.selection, 0.25
    assert config_checks.data_problems(emoji, 4 * s.super_batch) == []
    (told,) = config_checks.data_problems(emoji, 4 * s.super_batch - 1)
    assert f"takes {s.super_batch:,} pairs out of {4 * s.super_batch:,} (data.prefilter)" in told
    assert "Raise --config.data.prefilter" in told
    (told,) = config_checks.data_problems(emoji, s.super_batch - 1)
    assert f"a step loads {s.super_batch:,} pairs, and there are {s.super_batch - 1:,}" in told


def test_profiled_steps_are_read_from_text():
    assert config_lib.profiled_steps("") is None
    assert config_lib.profiled_steps("10-15") == (10, 15)
    assert config_lib.profiled_steps("7") == (7, 7)


def test_all_problems_come_in_one_message(emoji):
    emoji.selection.sub_batch = 130
    emoji.loss = "hinge"
    with pytest.raises(UserError, match=r"2 problem\(s\)"):
        config_checks.require_sound(config_checks.problems(emoji))


def test_replicas_must_divide_the_batches(emoji):
    assert config_checks.replica_problems(emoji, n_hosts=2, n_replicas=4) == []
    assert "sub_batch = 128" in config_checks.replica_problems(emoji, 1, 5)[0]
    assert "n_lanes" in str(config_checks.replica_problems(emoji, n_hosts=3, n_replicas=3))
    emoji.selection.scope = "replica"
    emoji.selection.n_chunks = 64
    assert "scope" in config_checks.replica_problems(emoji, 1, 4)[0]


def test_a_batch_below_one_chunk_names_one_size_that_fits(emoji):
    emoji.selection.sub_batch = 8
    (found,) = config_checks.problems(emoji)
    assert found.endswith("The smallest sub_batch that fits is 16.")


def test_the_check_that_the_readme_prints_finds_sound_sizes():
    text = (CONFIGS.parent / "README.md").read_text()
    name, arg, *sizes = re.search(
        r"`jest check --config=(\w+):(\S+) --replicas=(\d+) --hosts=(\d+)`", text
    ).groups()
    config = load(name, arg)
    assert config_checks.problems(config) == []
    n_replicas, n_hosts = map(int, sizes)
    assert config_checks.replica_problems(config, n_hosts, n_replicas) == []


def test_chunks_matter_to_joint_selection_alone():
    config = config_lib.base_config()
    config.data.train = "x"
    config.selection.sub_batch, config.selection.super_batch = 100, 104
    assert config_checks.problems(config) == []
    spec = selection_spec.SelectionSpec(104, 100, policy="uniform")
    assert spec.n_draws * spec.chunk_size == 100
    config.selection.policy, config.reference.workdir = "joint", "r"
    (problem,) = config_checks.problems(config)
    assert "sub_batch = 100 is not divisible by selection.n_chunks = 16" in problem
    with pytest.raises(UserError) as raised:
        selection_spec.SelectionSpec(104, 100)
    assert str(raised.value) == problem


def test_choices_are_those_of_the_code_that_takes_them():
    """The config names them apart, because it must not import TensorFlow."""
    from jest_tf.data.augmentation import augmentation
    from jest_tf.losses import contrastive
    from jest_tf.models.dual_encoder import CUSTOM, VARIANTS

    assert set(selection_spec.LOSSES) == set(contrastive.KINDS)
    assert set(config_lib.VARIANTS) == {*VARIANTS, CUSTOM}
    assert callable(augmentation(config_lib.AUGMENTATIONS))
