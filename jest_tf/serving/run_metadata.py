"""What an export says about the run that it comes from: the metadata behind its model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from jest_tf.config import flat


def run_metadata(
    config: Mapping[str, Any],
    step: int,
    workdir: str,
    cost: Mapping[str, Any] | None = None,
    scores: Sequence[Mapping[str, Any]] = (),
    environment: Mapping[str, Any] | None = None,
    about: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The metadata of `export_dual_encoder`: what a run at `step` is, cost and scored.

    about: licences and limits of the training data. environment: content of environment.json.
    """
    about = about or {}
    return {
        "name": config["name"],
        "step": step,
        "checkpoint": f"{workdir} at step {step}",
        "data": _data(config["data"]),
        "selection": _selection(config["selection"], config["reference"]["workdir"]),
        "training": _training(config, step),
        "cost": _filled(cost or {}),
        "scores": list(scores),
        "licences": [
            "Code: Apache-2.0",
            *(about.get("licences") or [f"Data: as {config['data']['train']} states"]),
        ],
        "limits": [
            *about.get("limits", []),
            "Not examined for social bias, and not meant for decisions about people",
        ],
        "environment": _filled(environment or {}),
        "evals": dict(config["evals"]),
    }


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


def _training(config: Mapping[str, Any], step: int) -> dict[str, Any]:
    optimizer, reference = config["optimizer"], config["reference"]
    weight, source = reference["distillation"], reference["workdir"] or reference["cache"]
    return {
        "steps": f"{step:,} of {config['total_steps']:,}",
        "examples trained on": step * config["selection"]["sub_batch"],
        "loss": config["loss"],
        "distillation": f"weight {weight:g}, from {source}" if weight else "none",
        "precision": config["precision"],
        "learning rate": optimizer["learning_rate"],
        "weight decay": optimizer["weight_decay"],
        "seed": config["seed"],
    } | _tuning(config)


def _tuning(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a model that starts from trained weights owes to them."""
    model, ema = config["model"], config["optimizer"].get("ema", 0.0)
    told = {"averaged weights": f"decay {ema:g}"} if ema else {}
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
