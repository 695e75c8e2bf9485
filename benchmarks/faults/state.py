"""What a run has computed, without what may differ between two runs of it: times and places."""

import json
import pathlib
import re
from typing import Any

import safetensors

from jest_tf.monitoring.ledger import read_ledger
from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.training.run.checkpoint import STATE, VARIABLES, Checkpointer, step_name

# Names of measured times, by their parts: `cost/seconds_step`, `input/wait_share`.
TIMES = {"seconds", "time", "wait"}


def state_of(workdir: pathlib.Path) -> dict[str, Any]:
    """The newest checkpoint's variables, the ledger's counts, metrics, picks and evaluations.

    Two runs of one config, seed and device layout under op determinism must give equal dicts.

    Returns:
      step; variables: name -> bytes; ledger, records: counts; metrics: lines of metrics.jsonl;
      picks: bytes of the ids in order; known: columns of the records' ledger;
      evaluations: file name -> metrics.
    Raises:
      ValueError: nothing was saved.
    """
    checkpoints = workdir / "checkpoints"
    step = Checkpointer(str(checkpoints)).newest_sound_step()
    if step is None:
        raise ValueError(f"{workdir} holds no checkpoint")
    folder = checkpoints / step_name(step)
    with safetensors.safe_open(folder / VARIABLES, framework="numpy") as file:
        variables = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    state = json.loads((folder / STATE).read_text())["state"]
    state["ledger"].pop("seconds")
    evaluations = (workdir / "evaluations").glob("*.json")
    return {
        "step": step,
        "variables": variables,
        "ledger": state["ledger"],
        "records": state["records"],
        "metrics": [_without_times(line) for line in read_metrics(workdir / "metrics.jsonl")],
        "picks": (workdir / "picks" / "ids.bin").read_bytes(),
        "known": {k: v.tobytes() for k, v in read_ledger(workdir / "ledger").columns.items()},
        "evaluations": {f.name: json.loads(f.read_text())["metrics"] for f in sorted(evaluations)},
    }


def differing_parts(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of the parts of two states that are not equal; empty when they are identical."""
    return [name for name in expected if found.get(name) != expected[name]]


def _without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in line.items() if not TIMES & set(re.split(r"\W|_", k))}
