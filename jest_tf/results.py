"""Results on disk: one JSON file per evaluation and step, readable by CLIP_benchmark's `build`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jest_tf.errors import explaining
from jest_tf.files import parse_json, write_atomically

# Our metric -> the name that CLIP_benchmark gives the same number.
_CLIP_BENCHMARK = {
    "top1": "acc1",
    "top5": "acc5",
    "mean_per_class": "mean_per_class_recall",
    **{f"image_to_text/recall@{k}": f"text_retrieval_recall@{k}" for k in (1, 5, 10)},
    **{f"text_to_image/recall@{k}": f"image_retrieval_recall@{k}" for k in (1, 5, 10)},
}


def clip_benchmark_fields(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `clip_benchmark build` reads; `metrics` holds our names and CLIP_benchmark's."""
    metrics = dict(result["metrics"])
    metrics |= {_CLIP_BENCHMARK[m]: v for m, v in metrics.items() if m in _CLIP_BENCHMARK}
    return {
        "dataset": result["dataset"],
        "model": result["model"],
        "pretrained": str(result.get("checkpoint")),
        "task": result["task"],
        "language": "en",
        "metrics": metrics,
    }


def result_path(folder: str | os.PathLike, name: str, step: int | None) -> Path:
    """`FOLDER/NAME-STEP.json`, or `FOLDER/NAME.json` where the step is not known."""
    return Path(folder) / (f"{name}.json" if step is None else f"{name}-{step:08d}.json")


def write_result(folder: str | os.PathLike, result: Mapping[str, Any]) -> Path:
    """Writes a result of `run_evaluation` atomically and returns its path."""
    path = result_path(folder, result["name"], result.get("step"))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**result, **clip_benchmark_fields(result)}, indent=1)
    write_atomically(path, content + "\n")
    return path


def read_results(folder: str | os.PathLike, step: int | None = None) -> list[dict[str, Any]]:
    """All results in a folder (of one step), by name and step; without CLIP_benchmark's names."""
    results = map(_read, sorted(Path(folder).glob("*.json")))
    return [result for result in results if step is None or result.get("step") == step]


def read_result(folder: str | os.PathLike, name: str, step: int) -> dict[str, Any] | None:
    """The result of one evaluation at one step, as of `read_results`; None if there is none."""
    path = result_path(folder, name, step)
    return _read(path) if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    theirs = set(_CLIP_BENCHMARK.values())
    text = f"{path} is no result of an evaluation ({{kind}}: {{error}}). Move it elsewhere, or "
    text += "evaluate that step again."
    with explaining((OSError, ValueError, TypeError, LookupError, AttributeError), text):
        result = parse_json(path.read_text("utf-8"))
        result["metrics"] = {k: v for k, v in result["metrics"].items() if k not in theirs}
        return result


def cut_results(folder: str | os.PathLike, last_step: int) -> None:
    """Removes the results of steps after `last_step`: a resumed run measures them again."""
    for path in Path(folder).glob("*-*.json"):
        step = path.stem.rpartition("-")[2]
        if step.isdecimal() and int(step) > last_step:
            path.unlink()
