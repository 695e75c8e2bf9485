"""Makes data/emoji/base: trains the base model, exports it in float16, and measures the export.

    python -m examples.emoji.train_base --workdir=runs/base

Each step is one command of the project, printed before it runs. Rerunning continues. The scores in
the README are those of the exported folder, imported again.
"""

import pathlib
import shlex
import shutil
import subprocess
import sys

from absl import flags

from jest_tf import cli, config_flag, results
from jest_tf.errors import UserError

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of the runs.", flag_values=FLAGS)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "data/prepared", "Where the data are prepared once.", flag_values=FLAGS
)
# Not `out`: this command would then be the only one that may write there, and `jest export` does.
_WEIGHTS = flags.DEFINE_string(
    "weights", "data/emoji/base", "Folder of the weights; replaced.", flag_values=FLAGS
)
_ARGUMENTS = flags.DEFINE_string(
    "arguments", "", "Of the config, such as steps=20,seed=1.", flag_values=FLAGS
)

CONFIG = "examples/emoji/base.py"
EVALUATIONS = pathlib.Path(__file__).parent / "base_evaluations.json"
README = """# A small SigLIP of emoji

{parameters:,} parameters in float16: 48 px, patches of 8, 16 tokens of a WordPiece vocabulary of
{vocabulary:,}. The quickstart imports it, tunes it, and uses it as the reference. Trained from
nothing on the 5,546 curated emoji of the folder above; no noisy pair and no evaluation picture.

    {command}

| part of the data | retrieval, mean of R@1 and R@5 both ways | zero-shot |
|---|---|---|
| test ({test} pictures) | {test_retrieval:.1%} | {test_zero_shot:.1%} |
| validation ({validation} pictures) | {validation_retrieval:.1%} | {validation_zero_shot:.1%} |

{steps:,} steps of 128 pairs, seed {seed}, {seconds:.0f} s of steps. Made {date} on {n_cpus} cores
of {cpu}, beside other work. The average of the weights is kept. Other processors
round differently: a repetition gives other weights, and scores within a point or so.
{curve}

Licence of the weights: Apache-2.0, as the code. The licences of the pictures and the captions that
it was trained on: [README.md](../README.md). It knows drawings and their names, and no photographs.
"""


def main(argv: list[str]) -> None:
    """Trains, exports, imports, evaluates, writes the README."""
    config_flag.refuse_extra(argv)
    workdir, out = pathlib.Path(_WORKDIR.value), pathlib.Path(_WEIGHTS.value)
    trained, imported = workdir / "trained", workdir / "imported"
    arguments = f":{_ARGUMENTS.value}" if _ARGUMENTS.value else ""
    data_dir = _DATA_DIR.value
    train = [
        f"--config={CONFIG}{arguments}", f"--config.data.data_dir={data_dir}",
        f"--workdir={trained}",
    ]  # fmt: skip
    run_command("jest_tf.train", *train)
    for folder in (out, imported):
        if (folder / "config.json").exists():
            shutil.rmtree(folder)
    run_command("jest_tf.export", f"--workdir={trained}", "--format=huggingface", "--dtype=float16",
         f"--out={out}")  # fmt: skip
    run_command("jest_tf.import_weights", f"--from={out}", f"--out={imported}")
    run_command("jest_tf.evaluate", f"--workdir={imported}", f"--evals={EVALUATIONS}",
         f"--data_dir={data_dir}", "--tfds_module=examples.emoji.builder")  # fmt: skip
    (out / "README.md").write_text(told(trained, imported), encoding="utf-8")
    print(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 1e6:.1f} MB")


def told(trained: pathlib.Path, imported: pathlib.Path) -> str:
    """The README of the weights, from the run's and the import's own files."""
    from jest_tf.monitoring import environment, run_history
    from jest_tf.training.run.restore import load_workdir

    run, row = load_workdir(str(imported)), run_history.summarise(str(trained))
    values = {}
    for result in results.read_results(imported / "evaluations", 0):
        kind, _, part = result["name"].rpartition("_")
        values[result["name"]] = score(result)
        if kind == "retrieval":
            values[part] = f"{result['data']['evaluated']['n_examples']:,}"
    of_names = {f"{n.rpartition('_')[2]}_{n.rpartition('_')[0]}": v for n, v in values.items()}
    along = results.read_results(trained / "evaluations")
    scores = ", ".join(f"{score(r):.1%}" for r in along if r["name"] == "retrieval_validation")
    curve = f"\nRetrieval on the validation part along training: {scores}." if scores else ""
    here = environment.collect()
    arguments = [f"--arguments={_ARGUMENTS.value}"] if _ARGUMENTS.value else []
    command = shlex.join(["python", "-m", "examples.emoji.train_base", *arguments])
    return README.format(
        parameters=run.model.count_params(), vocabulary=run.tokenizer.vocab_size, command=command,
        steps=row["steps"], seed=row["seed"], seconds=row["seconds"],
        date=here["started_utc"][:10], n_cpus=here["n_cpus"], cpu=here["cpu"],
        test=values["test"], validation=values["validation"], curve=curve, **of_names,
    )  # fmt: skip


def score(result: dict) -> float:
    """The number of an evaluation that the README states."""
    from benchmarks.evidence.results import retrieval_score

    metrics = result["metrics"]
    return metrics["top1"] if result["kind"] == "zero_shot" else retrieval_score(metrics)


def run_command(module: str, *arguments: str) -> None:
    """Prints and runs a command of the project; UserError: it failed."""
    words = ["python", "-m", module, *arguments]
    print(shlex.join(words), flush=True)
    if code := subprocess.run([sys.executable, *words[1:]], check=False).returncode:
        raise UserError(f"{module} ended with exit code {code}; it has said why")


if __name__ == "__main__":
    cli.run(main, FLAGS)
