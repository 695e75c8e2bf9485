"""The main job on the shipped data: a reference, JEST against uniform sampling, an export, queries.

    python -m examples.emoji.quickstart --workdir=runs/quickstart

Each step is one command of the project, printed before it runs, so that it can be repeated by hand.
Rerunning continues where it stopped. Writes results.json, the table on the screen as data.
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

from absl import flags

from jest_tf import cli, config_flag
from jest_tf.errors import UserError
from jest_tf.report import write_picture

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/quickstart", "Folder for all that this writes.", flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "data/prepared", "Where the data are prepared once.", flag_values=FLAGS
)
_STEPS = flags.DEFINE_integer(
    "steps",
    0,
    "Steps of both learners; 0: what the quickstart is planned with.",
    lower_bound=0,
    flag_values=FLAGS,
)
_REFERENCE_STEPS = flags.DEFINE_integer(
    "reference_steps", 0, "Steps of the reference; 0: as planned.", lower_bound=0, flag_values=FLAGS
)
_POLICIES = flags.DEFINE_list(
    "policies", ["joint", "uniform"], "Policies to compare, the same steps each.", flag_values=FLAGS
)

_UPDATE_README = flags.DEFINE_bool(
    "update_readme",
    False,
    "Write table, date, hardware and the picture of picks for README.md.",
    flag_values=FLAGS,
)

CONFIG = "configs/emoji.py"
README = pathlib.Path(__file__).parents[2] / "README.md"
PICTURE = README.parent / "docs" / "picks.png"
QUERIES = ("red heart", "cat face", "pizza", "sailboat", "thumbs up", "snowman")


def main(argv: list[str]) -> None:
    """Runs every step in turn, then prints the table and the paths."""
    config_flag.refuse_extra(argv)
    if not os.path.exists(CONFIG):
        raise UserError(f"{CONFIG} is not here: run the quickstart from the project's folder.")
    run = Quickstart(_WORKDIR.value)
    run.train("reference", "reference", _REFERENCE_STEPS.value)
    for policy in _POLICIES.value:
        reference = f"--config.reference.workdir={run.folder('reference')}"
        run.train(policy, f"policy={policy}", _STEPS.value, reference)
    run.export(_POLICIES.value[0])
    run.query(QUERIES)
    run.report(_POLICIES.value)


class Quickstart:
    """The commands of the main job, in one folder."""

    def __init__(self, workdir: str):
        self.workdir = workdir
        self.started = time.monotonic()

    def folder(self, name: str) -> str:
        return os.path.join(self.workdir, name)

    def train(self, name: str, arguments: str, steps: int, *overrides: str) -> None:
        """One training run, evaluated at its end."""
        arguments += ",quick" + (f",steps={steps}" if steps else "")
        self.command(
            "jest_tf.train",
            f"--config={CONFIG}:{arguments}",
            f"--config.data.data_dir={_DATA_DIR.value}",
            *overrides,
            f"--workdir={self.folder(name)}",
        )

    def export(self, name: str) -> None:
        """The first policy's learner as a SavedModel."""
        self.command(
            "jest_tf.export", f"--workdir={self.folder(name)}", f"--out={self.folder('export')}"
        )

    def query(self, texts: tuple[str, ...]) -> None:
        """Indexes the held-out vendor's images and finds some by text."""
        self.command(
            "jest_tf.retrieve",
            "index",
            "--images=tfds:emoji_captions/eval_retrieval:test",
            f"--data_dir={_DATA_DIR.value}",
            f"--model={self.folder('export')}",
            f"--out={self.folder('index')}",
        )
        self.command(
            "jest_tf.retrieve",
            "query",
            f"--index={self.folder('index')}",
            f"--model={self.folder('export')}",
            *(f"--text={text}" for text in texts),
            f"--out={self.folder('queries')}",
        )

    def report(self, policies: list[str]) -> None:
        """Prints the table and who is ahead; writes results.json."""
        from jest_tf.monitoring import run_summary  # TensorFlow: not before the flags are checked

        rows = [run_summary.summarise(self.folder(name)) for name in ["reference", *policies]]
        path = self.folder("results.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
        print("\n" + run_summary.table(rows))
        verdict = run_summary.verdict(rows[1:])
        print("\n" + verdict)
        print(f"\nAll of it took {(time.monotonic() - self.started) / 60:.1f} minutes. Written:")
        for what, where in (
            ("results", path),
            ("checkpoints", self.folder("*/checkpoints")),
            ("TensorBoard", f"tensorboard --logdir {self.workdir}"),
            ("exported model", self.folder("export")),
            ("contact sheet", self.folder("queries/contact_sheet.png")),
            ("what was chosen", f"python -m jest_tf.report --workdir={self.folder(policies[0])}"),
        ):
            print(f"  {what:15s} {where}")
        if _UPDATE_README.value:
            write_picture(self.folder(policies[0]), PICTURE)
            update_readme(run_summary.markdown_table(rows), verdict)
            update_part("picks", told_picks(self.folder(policies[0])))

    def command(self, module: str, *arguments: str) -> None:
        """Runs one command of the project and stops the whole if it fails."""
        words = ["python", "-m", module, *arguments]
        minutes = (time.monotonic() - self.started) / 60
        print(f"\n[{minutes:4.1f} min] {shlex.join(words)}", flush=True)
        code = subprocess.run([sys.executable, *words[1:]], check=False).returncode
        if code:
            sys.exit(code)  # The command has said why.


def update_readme(table: str, verdict: str) -> None:
    """Replaces the generated part of README.md."""
    from jest_tf.monitoring import environment

    here = environment.collect()
    made = f"{here['started_utc'][:10]}, {here['n_cpus']} cores of {here['cpu']}, no accelerator"
    made += f"; {CONFIG}:quick, seed 0"
    update_part("quickstart", f"{table}\n\n{verdict}\n\nMade {made}.")


def update_part(name: str, content: str) -> None:
    """Replaces what stands in README.md between the marks of a generated part."""
    from benchmarks import generated

    generated.fill(README, name, f"{content}\n")


def told_picks(workdir: str) -> str:
    """What is known of the pairs in the picture of a run's picks."""
    from examples.emoji import builder as emoji
    from jest_tf.monitoring.labels import Labels
    from jest_tf.monitoring.picks_sheet import COLUMNS
    from jest_tf.monitoring.samples import read_samples, sample_steps

    folder = os.path.join(workdir, "samples")
    samples = read_samples(folder, sample_steps(folder)[-1])
    labels = Labels(emoji.noise_by_id(), emoji.NOISY)
    shown = {group: samples.of(group).id[:COLUMNS] for group in ("chosen", "rejected_noise")}
    broken = {
        g: round(labels.noisy_share(labels.shares(ids)) * len(ids)) for g, ids in shown.items()
    }
    return (
        f"{broken['chosen']} of the {len(shown['chosen'])} pairs in row 1 is noisy, and "
        f"{broken['rejected_noise']} of the {len(shown['rejected_noise'])} in row 2. In the whole "
        f"data set, {labels.noisy_share(labels.pool_shares()):.0%} are."
    )


if __name__ == "__main__":
    cli.run(main, FLAGS)
