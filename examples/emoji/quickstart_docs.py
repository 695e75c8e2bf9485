"""The parts of README.md that the quickstart makes: its table, and a picture of what it selects."""

import os
import pathlib
from collections.abc import Sequence

from benchmarks import generated
from examples.emoji import builder as emoji
from examples.emoji import quickstart_page
from examples.emoji.demos import Demo
from examples.emoji.run_table import markdown_table
from jest_tf.files import steps_with_file
from jest_tf.monitoring import environment
from jest_tf.monitoring.labels import Labels
from jest_tf.monitoring.samples import COLUMNS, read_samples
from jest_tf.report import write_picture

README = pathlib.Path(__file__).parents[2] / "README.md"
PICTURE = README.parent / "docs" / "picks.png"
PAGE = README.parent / "docs" / "quickstart.md"


def update(demo: Demo, workdir: str, policies: Sequence[str]) -> None:
    """Fills the demo's table into docs/quickstart.md, and the emoji's into README.md too."""
    folder = pathlib.Path(workdir)
    content = told(demo, folder, policies)
    if demo.parts:
        generated.fill(PAGE, "photos", content)
        return
    generated.fill(PAGE, "emoji", content)
    generated.fill(README, "quickstart", content)
    selecting = str(folder / policies[-1])
    write_picture(selecting, PICTURE)
    generated.fill(README, "picks", told_picks(selecting) + "\n")


def told(demo: Demo, folder: pathlib.Path, policies: Sequence[str]) -> str:
    """The table, queries with a right picture, date and hardware."""
    rows = quickstart_page.table_rows(folder, policies)
    found = {
        name: quickstart_page.read_answers(folder / name, demo).n_right(demo)
        for name in ("base", policies[-1])
    }
    queries = " and ".join(f"{n} with the {name} model" for name, n in found.items())
    here = environment.collect()
    made = f"{here['started_utc'][:10]}, {here['n_cpus']} cores of {here['cpu']}, no accelerator"
    return (
        f"{markdown_table(rows)}\n\nOf {len(demo.queries)} queries, {queries} have a "
        f"right picture among the first five.\nMade {made}; {demo.config}, seed 0.\n"
    )


def told_picks(workdir: str) -> str:
    """What is known of the pairs in the picture of a run's picks."""
    folder = os.path.join(workdir, "samples")
    samples = read_samples(folder, steps_with_file(folder)[-1])
    labels = Labels(emoji.noise_by_id(), emoji.NOISY)
    shown = {group: samples.of(group).id[:COLUMNS] for group in ("chosen", "rejected_noise")}
    broken = {
        g: round(labels.noisy_share(labels.shares(ids)) * len(ids)) for g, ids in shown.items()
    }
    verb = "is" if broken["chosen"] == 1 else "are"
    return (
        f"{broken['chosen']} of the {len(shown['chosen'])} pairs in row 1 {verb} noisy, and "
        f"{broken['rejected_noise']} of the {len(shown['rejected_noise'])} in row 2. In the whole "
        f"data set, {labels.noisy_share(labels.pool_shares()):.0%} are."
    )
