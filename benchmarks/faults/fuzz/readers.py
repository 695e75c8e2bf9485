"""What is fuzzed. A reader takes mutated inputs and tells how many were used and how many refused.

Refused means: counted as invalid in its slot, passed over with the reason, or a UserError. Anything
else that is raised is a finding, as are inputs that are neither used nor refused.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.faults import tiny_run
from benchmarks.faults.fuzz import file_readers, tensor_readers


class Reader(NamedTuple):
    """One kind of input.

    make: folder -> function of a list of inputs -> number of them that were used.
    seeds: sound inputs to mutate. share: of all inputs that get this reader. batch: inputs given at
    a time.
    """

    name: str
    make: Callable[[pathlib.Path], Callable[[Sequence[bytes]], int]]
    seeds: Callable[[pathlib.Path], Sequence[bytes]]
    share: float
    batch: int


def readers() -> list[Reader]:
    """All kinds of input, with shares that add up to 1."""
    images = [tiny_run.pair(i)[0] for i in range(6)]
    captions = [tiny_run.pair(i)[1] for i in range(6)]
    captions += ["Ein Mädchen läuft 🏃🏽‍♀️".encode(), "赤い四角".encode(), b"", b"\xff\xfe\x00"]
    records = [tiny_run.serialized_pair(i, *tiny_run.pair(i)) for i in range(6)]
    t, f = tensor_readers, file_readers
    return [
        Reader("image bytes", t.images, lambda _: images + t.other_images(), 0.35, 256),
        Reader("records", t.records, lambda _: records, 0.25, 256),
        Reader("captions", t.captions, lambda _: captions, 0.15, 256),
        Reader("inputs of an export", t.export_inputs, lambda _: images + captions, 0.05, 64),
        Reader("TFRecord files", t.record_files, t.record_file_seeds, 0.02, 8),
        Reader("tars", f.tars, f.tar_seeds, 0.06, 32),
        Reader("JSON files", f.json_files, f.json_seeds, 0.05, 32),
        Reader("caption tables", f.tables, f.table_seeds, 0.03, 32),
        Reader("logs of a run", f.logs, f.log_seeds, 0.02, 32),
        Reader("tokenizer files", t.vocabularies, t.vocabulary_seeds, 0.01, 8),
        Reader("checkpoints", f.checkpoints, f.checkpoint_seeds, 0.01, 8),
    ]
