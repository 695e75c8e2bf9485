"""Stands in for `python -m jest_tf.train` in tests of the evidence runner: writes a run's files.

    python evidence_fake_run.py CONFIG_JSON WORKDIR MODE

MODE: ok, fail (exit code 7), hang (until it is asked to stop; then exit code 143), late (as hang,
but it then comes to its end).
"""

import json
import pathlib
import signal
import sys
import time

import numpy as np

from jest_tf.monitoring.picks_log import PicksLog


def write_run(config: dict, folder: pathlib.Path, retrieval: float = 0.4) -> None:
    """A finished run whose scores rise in a line to `retrieval`, 2 s and 1 TFLOP a step."""
    folder.mkdir(parents=True, exist_ok=True)
    total = config["total_steps"]
    every = config["evals"].get("retrieval_validation", {"every_steps": total})["every_steps"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps(environment()))
    steps = sorted({*range(every, total + 1, every), total})
    with open(folder / "metrics.jsonl", "w") as file:
        for step in steps:
            file.write(json.dumps(metrics_line(step, config)) + "\n")
    (folder / "evaluations").mkdir(exist_ok=True)
    for step in steps:
        for kind in ("retrieval", "zero_shot"):
            write_evaluation(folder, kind, "validation", step, retrieval * step / total)
    for kind in ("retrieval", "zero_shot"):
        write_evaluation(folder, kind, "test", total, retrieval)
    log = PicksLog(folder / "picks", config["selection"]["sub_batch"])
    for step in range(1, total + 1):
        log.write(step, np.arange(config["selection"]["sub_batch"]) + step)
    log.close()
    (folder / "checkpoints" / f"step-{total:08d}").mkdir(parents=True, exist_ok=True)


def metrics_line(step: int, config: dict) -> dict:
    scored = 0 if config["selection"]["policy"] == "uniform" else config["selection"]["super_batch"]
    return {
        "step": step,
        "time": 0.0,
        "train/loss": 1.0,
        "cost/steps": step,
        "cost/examples_scored": step * scored,
        "cost/examples_trained": step * config["selection"]["sub_batch"],
        "cost/flops": 1e12 * step,
        "cost/flops/score_reference": 4e11 * step,
        "cost/seconds": 30.0 + 2.0 * step,
        "cost/seconds/compile": 30.0,
    }


def write_evaluation(folder, kind: str, part: str, step: int, score: float) -> None:
    if kind == "retrieval":
        ways = ("image_to_text", "text_to_image")
        metrics = {f"{way}/recall@{k}": score for way in ways for k in (1, 5, 10)}
    else:
        metrics = {"top1": score, "top5": score}
    name = kind if part == "test" else f"{kind}_{part}"
    result = {
        "name": name, "kind": kind, "dataset": f"tfds:emoji_captions/eval_{kind}:{part}",
        "step": step, "metrics": metrics,
        "data": {"evaluated": {"n_examples": 300, "n_texts": 200, "n_classes": 64}},
    }  # fmt: skip
    (folder / "evaluations" / f"{name}-{step:08d}.json").write_text(json.dumps(result))


def environment() -> dict:
    packages = {"tensorflow": "2.20.0", "keras": "3.15.1", "numpy": "2.0"}
    return {
        "git": {"revision": "0123456789abcdef", "dirty": False}, "cpu": "some CPU", "n_cpus": 2,
        "memory_bytes": 1, "python": "3.11", "started_utc": "2026-01-02T03:04:05+00:00",
        "packages": packages, "earlier": [],
    }  # fmt: skip


if __name__ == "__main__":
    config_json, workdir, mode = sys.argv[1:]
    if mode == "fail":
        sys.exit(7)
    if mode in ("hang", "late"):
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
        pathlib.Path(workdir, "hanging").touch()
        while not asked:
            time.sleep(0.05)
    if mode == "hang":
        sys.exit(143)
    write_run(json.loads(config_json), pathlib.Path(workdir))
