"""Writes one HTML page that shows what a run did and selected, alone or compared with other runs.

    python -m jest_tf.report --workdir=runs/joint --compare=runs/uniform,runs/independent
    python -m jest_tf.report --workdir=runs/joint --picture=picks.png

The page needs no network and no other file, and is light or dark as the browser is. It also works
while a run goes on. `--picture` draws only the examples of the newest kept step.
"""

import io
from pathlib import Path

from jest_tf import cli, config_flag
from jest_tf.errors import UserError, explaining
from jest_tf.files import steps_with_file

FLAGS, _flag = cli.own_flags()
_WORKDIR = _flag("string", "workdir", None, "Folder of the run.")
_COMPARE = _flag("list", "compare", [], "Folders of runs to show beside it, separated by commas.")
_OUT = _flag("string", "out", None, "The page; by default WORKDIR/report.html.")
_PICTURE = _flag("string", "picture", None, "Write a PNG of examples instead of the page.")


def main(argv: list[str]) -> None:
    """Writes the report; folders after the flags are compared too (`--compare DIR2 DIR3`)."""
    if not _WORKDIR.value:
        raise UserError("--workdir is missing. Give the folder of the run to report on.")
    if _PICTURE.value:
        config_flag.refuse_extra(argv)
        step = write_picture(_WORKDIR.value, Path(_PICTURE.value))
        print(f"wrote {_PICTURE.value}: the examples of step {step:,}")
        return
    more = argv[1:]
    if more and not _COMPARE.value:
        config_flag.refuse_extra(argv)
    workdirs = [_WORKDIR.value, *_COMPARE.value, *more]
    out = Path(_OUT.value or Path(_WORKDIR.value) / "report.html")
    n_bytes = write_report(workdirs, out)
    print(f"wrote {out} ({n_bytes / 1e6:.1f} MB)")


def write_report(workdirs: list[str], out: Path, n_sample_steps: int = 4) -> int:
    """Writes the page about `workdirs[0]`, compared with the others; returns its size in bytes.

    UserError: a folder is not the workdir of a run, or the page cannot be written.
    """
    from jest_tf.monitoring.html_report import page
    from jest_tf.monitoring.run_history import load_runs

    content = page(load_runs(workdirs, n_sample_steps), cli.made_by("jest_tf.report")).encode()
    _write(out, content)
    return len(content)


def write_picture(workdir: str, out: Path) -> int:
    """Draws the selected and rejected examples of the newest kept step; returns the step."""
    from PIL import Image

    from jest_tf.monitoring.samples import picks_sheet, read_samples

    folder = Path(workdir) / "samples"
    steps = steps_with_file(folder)
    if not steps:
        raise UserError(
            f"{folder} holds no examples: the policy scores none (uniform), or the run has not "
            "logged yet."
        )
    samples = read_samples(folder, steps[-1])
    sheet = picks_sheet(samples, f"Step {steps[-1]:,}")
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", optimize=True)
    _write(out, buffer.getvalue())
    return steps[-1]


def _write(out: Path, content: bytes) -> None:
    text = f"{out} cannot be written: {{error}}. Name another file."
    with explaining(OSError, text):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)


if __name__ == "__main__":
    cli.run(main, FLAGS)
