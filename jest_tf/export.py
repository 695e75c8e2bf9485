"""Exports a run's model as a SavedModel with tokenizer and preprocessing inside.

    python -m jest_tf.export --workdir=runs/joint --out=runs/joint/export

Loading it needs tensorflow and tensorflow_text only; docs/export.md shows how.
"""

import os
from pathlib import Path

from absl import flags

from jest_tf import cli, config_flag
from jest_tf.errors import UserError
from jest_tf.json_text import parse_json

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=FLAGS)
_OUT = flags.DEFINE_string(
    "out", None, "Where to write; by default WORKDIR/export.", flag_values=FLAGS
)
_STEP = flags.DEFINE_integer(
    "step", None, "Checkpoint to export; by default the newest.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Exports the model of `--workdir`."""
    config_flag.refuse_extra(argv)
    if not _WORKDIR.value:
        raise UserError("--workdir is missing. Give the folder of the run to export.")
    out = _OUT.value or os.path.join(_WORKDIR.value, "export")
    from jest_tf.training.run.restore import load_workdir  # TensorFlow: after the flags

    run = load_workdir(_WORKDIR.value, _STEP.value)
    fingerprint = export_run(run, _WORKDIR.value, out)
    print(f"exported step {run.step} of {_WORKDIR.value} to {out} (fingerprint {fingerprint})")


def export_run(run, workdir: str, out: str) -> str:
    """Exports a LoadedRun with all that its workdir knows about it; returns the fingerprint.

    Raises:
        UserError: `out` holds other files, or the model has diverged.
    """
    from jest_tf.monitoring.labels import run_about
    from jest_tf.results import read_results
    from jest_tf.serving.run_metadata import run_metadata
    from jest_tf.serving.saved_model import export_dual_encoder

    metadata = run_metadata(
        run.config.to_dict(),
        run.step,
        workdir,
        cost=run.state.get("ledger"),
        scores=read_results(Path(workdir) / "evaluations", run.step),
        about=run_about(Path(workdir)),
        environment=_environment(Path(workdir) / "environment.json"),
    )
    config = run.config
    return export_dual_encoder(
        run.model, run.tokenizer, config.model.image_size, out, metadata, config.data.image_size
    )


def _environment(path: Path) -> dict:
    """What the card tells of environment.json: versions and hardware, not hosts and arguments."""
    try:
        content = parse_json(path.read_text())
    except (OSError, ValueError):
        return {}
    return {k: content.get(k) for k in ("jest_tf", "git", "packages", "python", "cpu", "n_cpus")}


if __name__ == "__main__":
    cli.run(main, FLAGS)
