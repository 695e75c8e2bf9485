"""Exports a run's model: for TensorFlow, Hugging Face's transformers, big_vision or Keras.

    python -m jest_tf.export --workdir=runs/joint --out=runs/joint/export
    python -m jest_tf.export --workdir=runs/tuned --format=huggingface --out=tuned_siglip
    python -m jest_tf.export --workdir=runs/tuned --interpolate=0.5 --with=runs/siglip

A SavedModel holds tokenizer and preprocessing, and loads with tensorflow and tensorflow_text alone
(docs/export.md). docs/weights.md tells what the other formats hold.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jest_tf import cli, config_flag
from jest_tf.config import flat
from jest_tf.errors import UserError
from jest_tf.files import read_object

# What the card tells of environment.json: versions and hardware, not hosts and arguments.
TOLD = ("jest_tf", "git", "packages", "python", "cpu", "n_cpus")
FLAGS, _flag = cli.own_flags()
_WORKDIR = _flag("string", "workdir", None, "Folder of the run.")
_OUT = _flag("string", "out", None, "Where to write; by default in the workdir.")
_FORMAT = _flag(
    "enum", "format", "saved_model", "What to write.",
    enum_values=["saved_model", "huggingface", "big_vision", "keras"],
)  # fmt: skip
_DTYPE = _flag(
    "enum", "dtype", "float32", "Of the weights in a huggingface folder; float16 halves it.",
    enum_values=["float32", "float16"],
)  # fmt: skip
_INTERPOLATE = _flag(
    "float", "interpolate", None, "Share of the run's weights; the rest are those of --with "
    "(WiSE-FT).", lower_bound=0.0, upper_bound=1.0,
)  # fmt: skip
_WITH = _flag("string", "with", None, "--interpolate: workdir that the run was tuned from.")
_STEP = _flag("integer", "step", None, "Checkpoint to export; by default the newest.")


def main(argv: list[str]) -> None:
    config_flag.refuse_extra(argv)
    if not _WORKDIR.value:
        raise UserError("--workdir is missing. Give the folder of the run to export.")
    if (_INTERPOLATE.value is None) != (_WITH.value is None):
        raise UserError("--interpolate=SHARE and --with=WORKDIR go together")
    if _DTYPE.value != "float32" and _FORMAT.value != "huggingface":
        raise UserError(f"--dtype={_DTYPE.value} goes with --format=huggingface alone")
    from jest_tf.serving.public_formats import WRITERS, export_public, interpolate
    from jest_tf.training.run.restore import load_workdir  # TensorFlow: after the flags

    run = load_workdir(_WORKDIR.value, _STEP.value)
    if _WITH.value:
        start = load_workdir(_WITH.value)
        if start.tokenizer.fingerprint != run.tokenizer.fingerprint:
            raise UserError(
                f"--with={_WITH.value} reads text as {start.tokenizer.fingerprint}, --workdir "
                f"as {run.tokenizer.fingerprint}: expected the run that it was tuned from"
            )
        interpolate(run.model, start.model, _INTERPOLATE.value)
    name = "export" if _FORMAT.value == "saved_model" else WRITERS[_FORMAT.value][0]
    out = _OUT.value or os.path.join(_WORKDIR.value, name)
    if _FORMAT.value != "saved_model":
        remarks = export_public(run.model, run.tokenizer, _FORMAT.value, out, _DTYPE.value)
        told = "".join(f"\n  note: {remark}" for remark in remarks)
        print(f"exported step {run.step} of {_WORKDIR.value} to {out} ({_FORMAT.value}){told}")
        return
    fingerprint = export_run(run, _WORKDIR.value, out)
    print(f"exported step {run.step} of {_WORKDIR.value} to {out} (fingerprint {fingerprint})")


def export_run(run, workdir: str, out: str) -> str:
    """Exports a LoadedRun with all that its workdir knows about it; returns the fingerprint."""
    from jest_tf.monitoring.labels import run_about
    from jest_tf.results import read_results
    from jest_tf.serving.saved_model import export_dual_encoder

    folder, config = Path(workdir), run.config.to_dict()
    about, made_with = run_about(folder), {}
    with contextlib.suppress(UserError):  # for people alone
        made_with = read_object(folder / "environment.json", "versions")
    metadata = {
        "name": config["name"],
        "step": run.step,
        "checkpoint": f"{workdir} at step {run.step}",
        "data": _data(config["data"]),
        "selection": _selection(config["selection"], config["reference"]["workdir"]),
        "training": trained_how(config, run.step),
        "cost": _filled(run.state.get("ledger") or {}),
        "scores": list(read_results(folder / "evaluations", run.step)),
        "licences": [
            "Code: Apache-2.0",
            *(about.get("licences") or [f"Data: as {config['data']['train']} states"]),
        ],
        "limits": [
            *about.get("limits", []),
            "Not examined for social bias, and not meant for decisions about people",
        ],
        "environment": _filled({name: made_with.get(name) for name in TOLD}),
        "evals": dict(config["evals"]),
    }
    size, stored = run.config.model.image_size, run.config.data.image_size
    return export_dual_encoder(run.model, run.tokenizer, size, out, metadata, stored)


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    learned_from = data["vocab_from"] or data["train"]
    vocabulary = f"trained on {learned_from}" if learned_from else "that of the imported model"
    return {
        "training pairs": data["train"] or "none: the weights were imported as they are",
        "vocabulary": data["vocab"] or vocabulary,
        "augmentation": ", ".join(data["augment"]) or "none",
        "order": f"shuffled: {data['shuffle']}, {data['n_lanes']} lanes",
    }


def _selection(selection: Mapping[str, Any], reference: str) -> dict[str, Any]:
    b, super_batch = selection["sub_batch"], selection["super_batch"]
    rows = {"policy": selection["policy"], "sub-batch (trained)": b}
    if selection["policy"] == "uniform":
        return rows
    uses_reference = selection["criterion"] != "hard_learner"
    return rows | {
        "criterion": selection["criterion"],
        "super-batch (scored)": super_batch,
        "filter ratio": 1 - b / super_batch,
        "chunks": selection["n_chunks"],
        "temperature": selection["temperature"],
        "greedy": selection["greedy"],
        "scope": selection["scope"],
        "reference": reference if uses_reference else "none",
    }


def trained_how(config: Mapping[str, Any], step: int) -> dict[str, Any]:
    optimizer, reference = config["optimizer"], config["reference"]
    weight, source = reference["distillation"], reference["workdir"] or reference["cache"]
    told = {
        "steps": f"{step:,} of {config['total_steps']:,}",
        "examples trained on": step * config["selection"]["sub_batch"],
        "loss": config["loss"],
        "distillation": f"weight {weight:g}, from {source}" if weight else "none",
        "precision": config["precision"],
        "learning rate": optimizer["learning_rate"],
        "weight decay": optimizer["weight_decay"],
        "seed": config["seed"],
    }
    model = config["model"]
    if ema := optimizer.get("ema"):
        told["averaged weights"] = f"decay {ema:g}"
    if not model.get("init"):
        return told
    trained = [f"{tower} {model[tower]['train']}" for tower in ("image", "text")]
    adapters = [f"adapters of rank {model['lora']['rank']}"] * bool(model["lora"]["rank"])
    return told | {
        "starts from": model["init"].rstrip("/").rpartition("/")[2],
        "trained parts": ", ".join(trained + adapters),
    }


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts as one, without what is empty."""
    return {key: value for key, value in flat(values).items() if value not in (None, "", [], ())}


if __name__ == "__main__":
    cli.run(main, FLAGS)
