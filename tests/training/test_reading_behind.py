"""Between two logs the host reads what a step did only when the next one has begun."""

import tensorflow as tf
from ml_collections import ConfigDict
from small_run import ONE_BLOCK, small_data

from jest_tf.config import base_config
from jest_tf.training import loop

STEPS, LOGGED = 9, 7
# Copies to the host a step: picks, metrics, record numbers and losses of the candidates; and their
# ids, sources and validity.
READS = 7


def test_a_step_is_read_while_the_next_one_runs(tmp_path, monkeypatch):
    c = base_config()
    c.data.train, c.data.data_dir = small_data(tmp_path), str(tmp_path / "prepared")
    c.data.image_size, c.data.n_tokens, c.data.vocab_size, c.data.n_lanes = 12, 4, 60, 1
    c.model.image_size, c.model.patch_size, c.model.variant = 8, 4, "nano"
    c.model.sizes = ConfigDict(ONE_BLOCK)
    c.selection.policy, c.selection.criterion = "joint", "hard_learner"
    c.selection.super_batch, c.selection.sub_batch, c.selection.n_chunks = 8, 4, 2
    c.total_steps, c.log.every_steps, c.checkpoint.every_steps = STEPS, LOGGED, 0
    n_reads, results, seen = [0], [], []
    tensor = type(tf.constant(0))

    def counted(read):
        def counting(self, *arguments):
            n_reads[0] += 1
            return read(self, *arguments)

        return counting

    def look(step, result):
        seen.append((n_reads[0], results[-1].is_read if results else True))
        results.append(result)

    for way in ("numpy", "__array__", "__float__", "__int__", "__bool__", "__index__"):
        monkeypatch.setattr(tensor, way, counted(getattr(tensor, way)))
    assert loop.train(c, str(tmp_path / "run"), look) == 0
    # Read at once: the first, which was compiled, and the logged one.
    assert [was_read for _, was_read in seen] == [n in (0, 1, LOGGED) for n in range(STEPS)]
    reads = [after - before for (before, _), (after, _) in zip(seen, seen[1:], strict=False)]
    assert reads[2 : LOGGED - 2] == [READS] * (LOGGED - 4), "nothing else between two logs"
    assert all(result.is_read for result in results)
