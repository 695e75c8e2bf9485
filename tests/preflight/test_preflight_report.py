"""Sizes, costs and the page itself."""

import pytest

from jest_tf.config import base_config
from jest_tf.configs import jest_b16
from jest_tf.devices import TPUS, parse_device
from jest_tf.preflight.cost import check_cost
from jest_tf.preflight.report import Section, binary, check_sizes, decimal, n_problems, render
from jest_tf.training.assemble import parts_of


@pytest.fixture
def jest():
    c = base_config()
    c.data.train = c.reference.workdir = "anywhere"
    c.selection.policy = "joint"
    c.selection.super_batch, c.selection.sub_batch = 640, 128
    return c


def test_sizes_are_derived(jest):
    section = check_sizes(jest, n_replicas=4, n_hosts=2)
    rows = dict(section.rows)
    assert section.problems == []
    assert rows["filter ratio"] == "0.8 = 1 - 128 / 640"
    assert rows["each replica"] == "loads 160, trains 32"
    assert rows["joint draws"] == "16 chunks of 8"
    assert rows["each host"] == "loads 320 from 4 of the lanes"
    assert rows["the run"] == "1,000 steps: 128,000 trained, 640,000 loaded"


@pytest.mark.parametrize(
    ("replicas", "hosts", "problem"),
    [(3, 1, "not divisible by the 3 replicas"), (6, 4, "shared evenly by 4 hosts"),
     (16, 16, "not a multiple of the 16 hosts")],
)  # fmt: skip
def test_layouts_that_do_not_divide_are_problems(jest, replicas, hosts, problem):
    assert problem in "\n".join(check_sizes(jest, replicas, hosts).problems)


def test_cost_is_counted_against_plain_training(jest):
    rows = dict(check_cost(jest, parts_of(jest, 1), 1, TPUS["v5e"]).rows)
    ratio = float(rows["trained at 48/8"].split("x")[0])
    # 5 examples forward through two models and one trained, of 3 forward passes: (10 + 3) / 3.
    assert ratio == pytest.approx(13 / 3, rel=0.05)
    jest.selection.policy = "uniform"
    jest.selection.super_batch = 128
    rows = dict(check_cost(jest, parts_of(jest, 1), 1, TPUS["v5e"]).rows)
    assert rows["trained at 48/8"].startswith("1x: ")


def test_an_evaluation_of_imagenet_takes_minutes_of_all_chips():
    config = jest_b16.get_config()
    parts = parts_of(config, 128)
    (alone, of_slice) = (
        dict(check_cost(config, parts, n, TPUS["v5p"]).rows)["an evaluation"] for n in (1, 128)
    )
    # By hand: 80,000 pictures and prompts through both towers of B/16, 256 tokens and 64, forward:
    # 2 operations a weight and token, and the products of attention.
    towers = 12 * 2 * (256 + 64) * 12 * 768**2 + 12 * 4 * 768 * (256**2 + 64**2)
    minutes = 80_000 * towers / 459e12 / 60
    shown = [float(text.split("at least ")[1].split()[0]) for text in (alone, of_slice)]
    assert shown[0] == pytest.approx(minutes, rel=0.1)
    assert shown[1] == pytest.approx(minutes / 128, rel=0.1)
    assert "80,000 pictures" in alone and "at v5p's peak" in alone
    # Decoding is shared by cores: so many pictures, each 1/300 of a second of one.
    assert f"{80_000 / 300 / 60:.2g} minutes of one core" in of_slice


def test_page_marks_problems():
    good, bad = Section("A", [("x", "1")]), Section("B", problems=["broken"])
    assert n_problems([good, bad]) == 1
    assert render([good, bad]).splitlines()[-2:] == ["  PROBLEM: broken", "1 problem(s)."]
    assert render([good]).endswith("No problem found.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1536, "1.5 KiB"), (500 * 2**20, "500 MiB"), (2**40, "1 TiB")],
)
def test_binary_sizes(value, text):
    assert binary(value) == text


def test_decimal_sizes():
    assert [decimal(v) for v in (0, 1234, 5e12, 2e20)] == ["0", "1.23 k", "5 T", "200 E"]


def test_days_on_a_cpu_are_a_problem(jest):
    parts, cpu = parts_of(jest, 1), parse_device("cpu:8GiB")
    assert check_cost(jest, parts, 1, cpu).problems == []
    jest.total_steps = 100_000_000
    (problem,) = check_cost(jest, parts, 1, cpu).problems
    assert "days on a CPU" in problem
    accelerated = check_cost(jest, parts, 1, TPUS["v5e"])
    assert accelerated.problems == [] and "at v5e's peak" in dict(accelerated.rows)["the run"]


def test_a_uniform_run_is_told_what_it_has_in_reserve(jest):
    jest.selection.policy = "uniform"
    assert "survives 512 records" in dict(check_sizes(jest, 1, 1).rows)["in reserve"]
    jest.selection.super_batch = 128
    assert "nothing: a step with a record" in dict(check_sizes(jest, 1, 1).rows)["in reserve"]


def test_pictures_smaller_than_the_model_takes_are_refused(jest):
    jest.data.image_size = 32
    (problem,) = check_sizes(jest, 1, 1).problems
    assert "--config.data.image_size=48" in problem
