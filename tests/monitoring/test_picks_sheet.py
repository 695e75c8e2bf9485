"""The picture of the picks holds the samples' own pixels, in the order of the groups."""

import numpy as np
from sample_workdir import some_samples

from jest_tf.monitoring.picks_sheet import COLUMNS, picks_sheet


def test_every_group_is_drawn_and_groups_without_examples_are_left_out():
    samples = some_samples(np.random.default_rng(0))
    # One flat colour per group, which nothing else on the page has.
    colors = {"chosen": (1, 200, 3), "rejected_noise": (200, 1, 3), "rejected_known": (3, 1, 200)}
    for group, color in colors.items():
        samples.image[samples.group == group] = color
    both = picks_sheet(samples, ["rejected_noise", "nothing", "chosen"], n_rows=1)
    found = {group: np.argwhere((both == color).all(axis=2)) for group, color in colors.items()}
    assert len(found["rejected_known"]) == 0
    side = 96
    assert len(found["chosen"]) == len(found["rejected_noise"]) == COLUMNS * side * side
    assert found["rejected_noise"][:, 0].max() < found["chosen"][:, 0].min()
