"""The real job on shipped data: take a model, tune it on noisy pairs, see what selecting did.

    python -m examples.emoji.quickstart --workdir=runs/quickstart
    python -m examples.emoji.quickstart --workdir=runs/photos --photos

Imports a small model, tunes it on a noisy pool with uniform sampling and with joint selection at
equal steps, and searches pictures by text before and after. Each step is one command of the
project, printed before it runs. Rerunning continues where it stopped. Writes index.html, the page
to look at, and results.json.
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

from absl import flags

from examples.emoji.demos import DEMOS, Demo
from examples.emoji.speed import Speed
from jest_tf import cli, config_flag
from jest_tf.errors import UserError

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/quickstart", "Folder for all that this writes.", flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "data/prepared", "Where the data are prepared once.", flag_values=FLAGS
)
_STEPS = flags.DEFINE_integer(
    "steps", 0, "Steps of each run; 0: as planned.", lower_bound=0, flag_values=FLAGS
)
_PHOTOS = flags.DEFINE_bool(
    "photos", False, "Photographs from shops instead of emoji.", flag_values=FLAGS
)
_UPDATE_DOCS = flags.DEFINE_bool(
    "update_docs", False, "Write table, date and hardware into the docs.", flag_values=FLAGS
)

BASE = "data/emoji/base"
POLICIES = ("uniform", "joint")


def main(argv: list[str]) -> None:
    """Runs every step in turn, then writes the page."""
    config_flag.refuse_extra(argv)
    if not os.path.exists(BASE):
        raise UserError(f"{BASE} is not here: run the quickstart from the project's folder.")
    demo = DEMOS["photos" if _PHOTOS.value else "emoji"]
    run = Quickstart(demo, _WORKDIR.value, _DATA_DIR.value)
    print(f"Planned: {run.speed.plan(demo.minutes)}", flush=True)
    run.prepare()
    run.take_base()
    run.search("base")
    run.report([])  # the first pictures
    if demo.has_reference:
        run.train("reference", "reference")
    for policy in POLICIES:
        run.train(policy, f"policy={policy}")
    run.search(POLICIES[-1])
    run.report(POLICIES)
    if _UPDATE_DOCS.value:
        run.update_docs()


class Quickstart:
    """The commands of the main job, in one folder."""

    def __init__(self, demo: Demo, workdir: str, data_dir: str):
        self.demo, self.workdir, self.data_dir = demo, workdir, data_dir
        self.started, self.speed = time.monotonic(), Speed(demo.speeds)

    def folder(self, *names: str) -> str:
        return os.path.join(self.workdir, *names)

    def prepare(self) -> None:
        """Turns the files of the demo into shards, where it has any."""
        for name in self.demo.parts:
            self.command(
                "jest_tf.prepare",
                "parquet",
                f"{self.demo.source}/{name}.parquet",
                f"--out={self.data_dir}/photos/{name}",
            )

    def take_base(self) -> None:
        """The shipped weights as a run at step 0, which everything that takes a run can use."""
        out = self.folder("base")
        if not os.path.exists(out):
            self.command("jest_tf.import_weights", f"--from={BASE}", f"--out={out}")

    def train(self, name: str, arguments: str) -> None:
        """Tunes the base, evaluated on the way."""
        arguments += f",steps={_STEPS.value}" if _STEPS.value else ""
        more = [f"--config.data.data_dir={self.data_dir}"]
        if self.demo.has_reference:
            arguments += f",data={self.data_dir}/photos"
            if name != "reference":
                more.append(f"--config.reference.workdir={self.folder('reference')}")
        self.command(
            "jest_tf.train",
            f"--config={self.demo.config}:{arguments}",
            f"--config.model.init={self.folder('base')}",
            *more,
            f"--workdir={self.folder(name)}",
            watch=name,
        )

    def search(self, name: str) -> None:
        """Exports a model, indexes pictures that it has not seen, and finds some by text."""
        export, index = self.folder(name, "export"), self.folder(name, "index")
        self.command("jest_tf.export", f"--workdir={self.folder(name)}", f"--out={export}")
        self.command(
            "jest_tf.retrieve",
            "index",
            f"--images={self.demo.images.format(data_dir=self.data_dir)}",
            *([f"--tfds_module={self.demo.tfds_module}"] if self.demo.tfds_module else []),
            f"--data_dir={self.data_dir}",
            f"--model={export}",
            f"--out={index}",
        )
        self.command(
            "jest_tf.retrieve",
            "query",
            f"--index={index}",
            f"--model={export}",
            *(f"--text={query.text}" for query in self.demo.queries),
            f"--out={self.folder(name, 'queries')}",
        )

    def report(self, policies: tuple[str, ...]) -> None:
        """Writes index.html and results.json, and prints the table and where things lie."""
        from examples.emoji import quickstart_page  # TensorFlow: not before the flags are checked
        from examples.emoji.run_table import text_table

        minutes = (time.monotonic() - self.started) / 60
        found = quickstart_page.write(self.demo, self.workdir, policies, minutes)
        where = pathlib.Path(found.path).resolve().as_uri()
        if not policies:
            print(f"\nThe first pictures, by the base, after {minutes:.1f} minutes: {where}")
            return
        with open(self.folder("results.json"), "w", encoding="utf-8") as file:
            json.dump(found.rows, file, indent=1)
        print("\n" + text_table(found.rows))
        print("\n" + "\n".join(found.verdict))
        print(f"\nAll of it took {minutes:.1f} minutes. Open this page:\n\n  {where}\n")
        for what, path in (
            ("results", self.folder("results.json")),
            ("contact sheet", self.folder(policies[-1], "queries/contact_sheet.png")),
            ("exported model", self.folder(policies[-1], "export")),
            ("TensorBoard", f"tensorboard --logdir {self.workdir}"),
        ):
            print(f"  {what:15s} {path}")

    def command(self, module: str, *arguments: str, watch: str = "") -> None:
        """Runs one command of the project and stops the whole if it fails.

        Args:
          watch: name of the run whose speed is told, where the command trains.
        """
        words = ["python", "-m", module, *arguments]
        minutes = (time.monotonic() - self.started) / 60
        print(f"\n[{minutes:4.1f} min] {shlex.join(words)}", flush=True)
        if code := self.execute(words, watch):
            sys.exit(code)  # The command has said why.

    def execute(self, words: list[str], watch: str) -> int:
        """The exit code of a command of `python`."""
        with subprocess.Popen([sys.executable, *words[1:]]) as process:
            if watch:
                self.speed.watch(process, watch, self.folder(watch, "metrics.jsonl"))
            return process.wait()

    def update_docs(self) -> None:
        """Replaces the generated parts of README.md, and its picture."""
        from examples.emoji import quickstart_docs

        quickstart_docs.update(self.demo, self.workdir, POLICIES)


if __name__ == "__main__":
    cli.run(main, FLAGS)
