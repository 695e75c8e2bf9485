"""A few thousand mutated inputs for everything that reads what others wrote."""

import random

from benchmarks.faults.fuzz import watch as watching
from benchmarks.faults.fuzz.mutate import MOST_BYTES, mutated

N_INPUTS = 3000


def test_mutated_inputs_are_used_or_refused_and_never_more(tmp_path):
    outcome = watching.watch(seed=1, count=N_INPUTS, folder=tmp_path)
    assert outcome.findings == []
    assert (outcome.crashes, outcome.hangs) == (0, 0)
    # All kinds were read, all inputs are accounted for, and some of each outcome came about.
    assert len(outcome.inputs) == 11
    assert abs(outcome.inputs.total() - N_INPUTS) <= 11
    assert 0 < outcome.used.total() < outcome.inputs.total()


def test_a_worker_that_dies_hangs_or_raises_is_a_finding(tmp_path, monkeypatch):
    worker = """
import json, os, sys, time
def tell(**event): print(json.dumps(event), flush=True)
begin = sys.argv[4] if sys.argv[4:] else "reader:0"
for first in range(int(begin.split(":")[1]), 5):
    tell(reader="reader", first=first, n=1)
    if first == 1: os.abort()
    if first == 2: time.sleep(60)
    tell(reader="reader", first=first, used=1, finding="boom" if first == 3 else "", peak=7)
tell(end=True)
"""
    (tmp_path / "worker.py").write_text(worker)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec python3 "{tmp_path}/worker.py" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(watching.sys, "executable", str(python))
    monkeypatch.setattr(watching, "SECONDS_OF_A_BATCH", 2.0)
    outcome = watching.watch(seed=0, count=5, folder=tmp_path)
    assert [finding["first"] for finding in outcome.findings] == [1, 2, 3]
    assert (outcome.crashes, outcome.hangs, outcome.inputs.total()) == (1, 1, 3)
    assert outcome.peak_bytes == 7


def test_mutations_differ_are_repeatable_and_bounded():
    seeds = [b"abcdefgh" * 20, b"0123"]
    of = [mutated(seeds, random.Random(i)) for i in range(300)]
    assert of == [mutated(seeds, random.Random(i)) for i in range(300)]
    assert len(set(of)) > 240 and max(map(len, of)) <= MOST_BYTES
    assert seeds == [b"abcdefgh" * 20, b"0123"]
