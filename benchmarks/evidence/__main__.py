"""Runs the experiments that docs/results.md reports, and writes the pages.

    python -m benchmarks.evidence --suite=quick           # one seed, short, in runs/evidence
    python -m benchmarks.evidence --suite=main            # headline rows, 5 seeds, hours
    python -m benchmarks.evidence --suite=ablations       # the other rows, 2 or 5 seeds
    python -m benchmarks.evidence --suite=approximations  # cheaper scores, 2 seeds
    python -m benchmarks.evidence --suite=tuning_trials   # tuning: learning rates, candidates
    python -m benchmarks.evidence --suite=tuning          # tuning: 5 seeds for each claim
    python -m benchmarks.evidence --suite=photographs     # tuning on photographs
    python -m benchmarks.evidence --suite=photographs_anew  # from nothing on photographs
    python -m benchmarks.evidence --suite=mates           # near mates in a batch, 1 or 2 seeds
    python -m benchmarks.evidence --suite=from_nothing_trials  # options, on the trial seed
    python -m benchmarks.evidence --suite=from_nothing    # on the page of the tuning runs
    python -m benchmarks.evidence --suite=tuning --report_only --update_readme
    python -m benchmarks.evidence --suite=main --only='joint*,uniform*' --hours=3

Every cell is one `python -m jest_tf.train`. A finished cell has its result in the file of the
experiment, benchmarks/evidence/runs/NAME.jsonl.gz, and is not run again. Ctrl-C saves all, and the
same command continues. Exit codes: 0 everything is there; 1 some cells failed or were not started;
2 wrong input; 130, 143 interrupted, saved.
"""

import ast
import fnmatch
import os
import shlex
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.

from absl import app, flags, logging  # noqa: E402

from jest_tf.errors import UserError  # noqa: E402

_SUITE = flags.DEFINE_enum(
    "suite",
    "quick",
    [
        "quick",
        "main",
        "ablations",
        "approximations",
        "tuning_trials",
        "tuning",
        "photographs",
        "mates",
        "photographs_anew",
        "from_nothing_trials",
        "from_nothing",
    ],
    "What to run.",
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/evidence", "Folder of the runs' own folders.")
_OUT = flags.DEFINE_string(
    "out",
    "",
    "Folder of results, page and pictures; default: the shipped ones, for the quick suite "
    "WORKDIR/quick_results.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data/prepared", "Where the data are prepared once.")
_ONLY = flags.DEFINE_list(
    "only", [], "Patterns of cell names, e.g. 'joint-s*'; with what they need."
)
_SEEDS = flags.DEFINE_list("seeds", [], "Seeds to run of those declared; all by default.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Cells at a time.", lower_bound=1)
_CELL_MINUTES = flags.DEFINE_float("cell_minutes", 15.0, "A cell that takes longer is stopped.")
_HOURS = flags.DEFINE_float("hours", 0.0, "Start no cell after so long; 0: no bound.")
_OVERRIDE = flags.DEFINE_multi_string(
    "override", [], "FIELD=VALUE for every cell, e.g. model.image_size=16. Give an own --out."
)
_COMMIT = flags.DEFINE_bool("commit", False, "Commit each result to git as its cell finishes.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print cells, estimates and commands; run nothing.")
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Write the page from what is there.")
_UPDATE_README = flags.DEFINE_bool(
    "update_readme", False, "Write the short answer into README.md too (suite tuning)."
)


def main(argv: list[str]) -> int:
    """Runs what is missing of the suite and writes the page; returns the exit code."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
    logging.set_verbosity(logging.WARNING)
    from benchmarks.evidence import suites

    suite = suites.SUITES[_SUITE.value]
    if _UPDATE_README.value and suite.family != "tuning":
        raise UserError(f"--update_readme shows the rows of --suite=tuning, not of {suite.name}.")
    if _OVERRIDE.value and not _OUT.value:
        raise UserError("--override changes what the results mean: give them an own --out.")
    store, page = _places(suite.family)
    cells = [] if _REPORT_ONLY.value else _cells(suite)
    if _DRY_RUN.value:
        return _show(cells, _folders(store))

    from benchmarks.evidence.picks import PoolTruth
    from benchmarks.evidence.report import write_report

    truth, code = PoolTruth(), 0
    if cells:
        code = _run(cells, _folders(store), truth)
    command = f"python -m benchmarks.evidence --suite={suite.name}"
    readme = Path("README.md") if _UPDATE_README.value else None
    print(f"page: {write_report(suite.family, command, store, page, truth, readme)}", flush=True)
    return code


def _places(family: str) -> tuple[Path, Path]:
    """The file of results, and the page."""
    from benchmarks.evidence.results import SHIPPED

    if family in SHIPPED and not _OUT.value:
        return SHIPPED[family]
    out = Path(_OUT.value or f"{_WORKDIR.value}/quick_results")
    return out / "runs.jsonl.gz", out / "results.md"


def _cells(suite) -> list:
    from benchmarks.evidence.grid import make_cells

    overrides = dict(_parse_override(text) for text in _OVERRIDE.value)
    cells = make_cells(suite.rows, suite.wanted, overrides)
    wanted = [cell for cell in cells if _is_asked_for(cell, suite.wanted)]
    if not wanted:
        raise UserError("no cell of the suite fits --only and --seeds; see --dry_run for all.")
    kept = set()
    while wanted:
        cell = wanted.pop()
        kept.add(cell.name)
        wanted += cell.needs
    return [cell for cell in cells if cell.name in kept]


def _is_asked_for(cell, rows: tuple[str, ...]) -> bool:
    if cell.row.name not in rows:
        return False
    if _SEEDS.value and str(cell.seed) not in _SEEDS.value:
        return False
    return not _ONLY.value or any(fnmatch.fnmatch(cell.name, p) for p in _ONLY.value)


def _parse_override(text: str) -> tuple[str, object]:
    field, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--override={text!r}: expected FIELD=VALUE.")
    try:
        return field, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return field, value


def _folders(store: Path):
    from benchmarks.evidence.runner import Folders

    clean = Path(_DATA_DIR.value) / "emoji_pool_clean" / "manifest.json"
    return Folders(Path(_WORKDIR.value), store, _DATA_DIR.value, str(clean))


def _run(cells: list, folders, truth) -> int:
    from benchmarks.evidence.prepare import prepare
    from benchmarks.evidence.runner import Runner

    for cell in cells:
        _ = cell.config  # Wrong ones are found before the first run, not after hours.
    prepare(cells, folders.data_dir, folders.placeholders)
    runner = Runner(
        cells,
        folders,
        truth,
        jobs=_JOBS.value,
        cell_minutes=_CELL_MINUTES.value,
        last_start=3600 * _HOURS.value or float("inf"),
        on_result=_commit if _COMMIT.value else lambda path, cell: None,
    )
    return runner.run()


def _commit(path: Path, cell) -> None:
    """Commits one result; a failure to do so is said and does not stop the suite."""
    message = f"Evidence: {cell.row.label}, seed {cell.seed}"
    for words in (["add", str(path)], ["commit", "-q", "-m", message, "--", str(path)]):
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"git {words[0]} {path}: {done.stderr.strip()}", flush=True)


def _show(cells: list, folders) -> int:
    from benchmarks.evidence.estimate import Estimate
    from benchmarks.evidence.grid import rate_of
    from benchmarks.evidence.runner import finished, to_run, train_command
    from jest_tf.progress import duration

    done = finished(cells, folders)
    waiting = to_run(cells, done, folders)
    estimate = Estimate(done.values(), {cell.name: cell.work for cell in cells})
    for cell in cells:
        is_tuned = all(trial.name in done for trial in cell.trials)
        rate = rate_of(cell, done) if is_tuned else "BEST_TRIAL"
        state = duration(estimate.seconds([cell])) if cell in waiting else "done"
        print(f"{cell.name:28s} {state:>8s}  {shlex.join(train_command(cell, rate, folders))}")
    total = estimate.seconds(waiting) / _JOBS.value
    print(f"{len(cells)} cells, {len(waiting)} to run in about {duration(total)}")
    return 0


def _guarded(argv: list[str]) -> None:
    try:
        sys.exit(main(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(_guarded)
