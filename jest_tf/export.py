"""Exports a run's model: for TensorFlow, Hugging Face's transformers, big_vision or Keras.

    python -m jest_tf.export --workdir=runs/joint --out=runs/joint/export
    python -m jest_tf.export --workdir=runs/tuned --format=huggingface --out=tuned_siglip
    python -m jest_tf.export --workdir=runs/tuned --interpolate=0.5 --with=runs/siglip

A SavedModel holds tokenizer and preprocessing, and loads with tensorflow and tensorflow_text alone
(docs/export.md). docs/weights.md tells what the other formats hold.
"""

import contextlib
import os
from pathlib import Path

from jest_tf import cli, config_flag
from jest_tf.errors import UserError
from jest_tf.files import parse_json

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
    """Exports the model of `--workdir`."""
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
        interpolate(run.model, load_workdir(_WITH.value).model, _INTERPOLATE.value)
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
    from jest_tf.serving.run_metadata import run_metadata
    from jest_tf.serving.saved_model import export_dual_encoder

    made_with = {}
    with contextlib.suppress(OSError, ValueError):
        made_with = parse_json((Path(workdir) / "environment.json").read_text())
    metadata = run_metadata(
        run.config.to_dict(),
        run.step,
        workdir,
        cost=run.state.get("ledger"),
        scores=read_results(Path(workdir) / "evaluations", run.step),
        about=run_about(Path(workdir)),
        environment={k: made_with.get(k) for k in TOLD} if made_with else {},
    )
    config = run.config
    return export_dual_encoder(
        run.model, run.tokenizer, config.model.image_size, out, metadata, config.data.image_size
    )


if __name__ == "__main__":
    cli.run(main, FLAGS)
