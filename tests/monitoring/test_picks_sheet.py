"""The pictures of the picks hold the samples' own pixels, in the order of the groups."""

import numpy as np
import pytest
from sample_workdir import some_samples

from jest_tf.monitoring.samples import COLUMNS, group_sheet, picks_sheet

# One flat colour per group, which nothing else on the page has.
COLORS = {"chosen": (1, 200, 3), "rejected_noise": (200, 1, 3), "rejected_known": (3, 1, 200)}
TILE = 96 * 96


@pytest.fixture
def samples():
    samples = some_samples(np.random.default_rng(0), n=30)
    for group, color in COLORS.items():
        samples.image[samples.group == group] = color
    return samples


def places(sheet: np.ndarray, group: str) -> np.ndarray:
    return np.argwhere((sheet == COLORS[group]).all(axis=2))


def test_a_row_for_each_group_in_their_order(samples):
    sheet = picks_sheet(samples, "Step 1")
    found = [places(sheet, group) for group in COLORS]
    assert [len(f) for f in found] == [COLUMNS * TILE] * 3
    rows = [f[:, 0] for f in found]
    assert rows[0].max() < rows[1].min() and rows[1].max() < rows[2].min()


def test_a_group_alone_has_all_of_its_examples_and_no_other(samples):
    sheet = group_sheet(samples, "rejected_noise")
    assert len(places(sheet, "rejected_noise")) == 10 * TILE
    assert len(places(sheet, "chosen")) == 0
    assert sheet.shape[1] < 500  # narrow, as TensorBoard's cards are


def test_a_group_without_examples_is_left_out(samples):
    only = samples.of("chosen")
    assert picks_sheet(only, "").shape[0] < picks_sheet(samples, "").shape[0] / 2
