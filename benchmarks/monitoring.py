"""What watching a run and using its model cost, as JSON lines.

    python -m benchmarks.monitoring [--figures=logging,ledger,report,query,retrieval] \
        [--data_dir=data/prepared] [--variants=mu,B]

`logging`: a run of configs/emoji.py (joint), logging switched on and off in turns. `ledger`: what
the ledger of records adds to a step of that run, timed alone. `report`: the page of a run of 2,000
steps. `query`: one text against 100,000 indexed images, models of random weights. `retrieval`:
5,000 images against 25,000 texts, in a process of its own. Measure on an idle machine.
"""

import itertools
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf
from absl import flags, logging

from benchmarks.figures import emit
from benchmarks.monitoring_run import make_run
from benchmarks.timing import in_own_process, peak_extra_bytes
from jest_tf import cli, config_flag
from jest_tf.data.tokenizer import Tokenizer, train_wordpiece
from jest_tf.errors import UserError
from jest_tf.evaluation.retrieval import Positives, retrieval_metrics
from jest_tf.models.dual_encoder import VARIANTS, DualEncoder
from jest_tf.monitoring.html_report import page
from jest_tf.monitoring.ledger import Ledger
from jest_tf.monitoring.run_history import load_runs
from jest_tf.runtime import strategy
from jest_tf.selection import Embeddings, pair_loss, pair_rank
from jest_tf.serving.image_index import ImageIndex, Item
from jest_tf.serving.querying import Searcher
from jest_tf.serving.saved_model import export_dual_encoder
from jest_tf.training import loop
from jest_tf.training.run.outputs import Silent
from jest_tf.training.run.workdir import open_workdir

FLAGS = flags.FlagValues()
_FIGURES = flags.DEFINE_list(
    "figures",
    ["logging", "ledger", "report", "query", "retrieval"],
    "What to print.",
    flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "data/prepared", "Where the emoji data are prepared.", flag_values=FLAGS
)
_VARIANTS = flags.DEFINE_list(
    "variants", ["mu", "B"], "Models whose text queries are measured.", flag_values=FLAGS
)
_PART = flags.DEFINE_string(
    "part", "", "Internal: the figure that this process measures.", flag_values=FLAGS
)

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "emoji.py"
BLOCKS, BLOCK_STEPS = 10, 20  # in turns on and off: 5 blocks of each, a scalar line per block
REPORT_STEPS, REPORT_SAMPLES = 2000, 20
N_SAMPLE_STEPS = 4  # as `python -m jest_tf.report` shows
N_IMAGES, K, N_QUERIES = 100_000, 10, 21
RETRIEVAL_IMAGES, CAPTIONS_PER_IMAGE, RETRIEVAL_DIM = 5_000, 5, 768
QUERY = "a red apple on a wooden table"


def logging_row() -> dict:
    """Time that logging takes, of a step's, both from one run in which it is on and off in turns.

    Counted is what the training thread does only because of logging: the log itself (timed
    directly) and whatever makes a step slower while it is on (the difference of medians).
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(pathlib.Path(folder))
        times = _log_in_turns(trainer)
        samples_every = trainer.config.log.samples_every_steps
    off = statistics.median(times["step off"])
    slower = max(0.0, statistics.median(times["step on"]) - off)
    # Every step of a block passes through the log, which writes at the block's end.
    per_log = sum(times["log"]) / (BLOCKS / 2)
    with_examples = statistics.median(times["log with examples"])
    examples = max(0.0, with_examples - per_log)
    per_step = slower + per_log / BLOCK_STEPS + examples / samples_every
    return {
        "figure": "logging_cost", "value": per_step / off, "goal": "<= 0.02", "unit": "share",
        "numerator": per_step, "denominator": off, "repeats": len(times["step off"]),
        "context": {
            "config": "configs/emoji.py:quick", "log_seconds": per_log,
            "log_with_examples_seconds": with_examples, "step_slower_seconds": slower,
            "log_every": BLOCK_STEPS, "examples_every": samples_every,
        },
    }  # fmt: skip


def _log_in_turns(trainer) -> dict[str, list[float]]:
    """Seconds of the steps of blocks with and without logging, and of the log's calls."""
    times = {"step on": [], "step off": [], "log": [], "log with examples": []}
    steps, loud, silent, logged = trainer.step_log, trainer.outputs, Silent(), []
    log = steps.log

    def timed(step, result):
        started = time.perf_counter()
        log(step, result)
        times["log"].append(time.perf_counter() - started)
        logged.append(result)

    for _ in range(BLOCK_STEPS):  # compiles the step, and at its end what the log computes
        trainer._advance(1)
    for block in range(BLOCKS):
        is_on = block % 2 == 0
        trainer.outputs = steps.outputs = loud if is_on else silent
        steps.log = timed if is_on else lambda step, result: None
        for _ in range(BLOCK_STEPS):
            started, logs_before = time.perf_counter(), sum(times["log"])
            trainer._advance(1)
            took = time.perf_counter() - started - (sum(times["log"]) - logs_before)
            times["step on" if is_on else "step off"].append(took)
        if not is_on:
            trainer.step -= BLOCK_STEPS  # the logs take steps in order, none left out
    trainer.outputs = steps.outputs = loud
    every = trainer.config.log.samples_every_steps
    for _ in range(3):
        started = time.perf_counter()
        log(every * (trainer.step // every + 1), logged[-1])
        times["log with examples"].append(time.perf_counter() - started)
    loud.close()
    return times


def ledger_row() -> dict:
    """Time that the ledger takes, of a step's: losses and ranks on the device, counts on the host.

    Both are timed alone, on a super-batch of the run's size.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(pathlib.Path(folder))
        steps = _seconds(lambda: trainer._advance(1), BLOCK_STEPS)
        n_records = trainer.inputs.manifest.n_records
        selection, dim = trainer.config.selection, trainer.model.learner.config.embed_dim
    rng, n = np.random.default_rng(0), selection.super_batch
    models = [Embeddings(unit(rng, n, dim), unit(rng, n, dim), 10.0, -5.0) for _ in range(2)]
    valid = tf.ones([n], tf.bool)

    @tf.function(jit_compile=trainer.config.strategy.jit_compile, autograph=False)
    def observed():
        losses = [pair_loss("sigmoid", model, valid) for model in models]
        return tf.stack(losses + [pair_rank(model, valid) for model in models], axis=1)

    ledger, losses = Ledger(n_records), observed().numpy()
    code = 2 * rng.permutation(n_records)[:n] + (np.arange(n) < selection.sub_batch)
    on_device = _seconds(lambda: observed().numpy(), BLOCK_STEPS)
    on_host = _seconds(lambda: ledger.add(code, losses), BLOCK_STEPS)
    return {
        "figure": "ledger_cost", "value": (on_device + on_host) / steps, "goal": "<= 0.01",
        "unit": "share", "numerator": on_device + on_host, "denominator": steps,
        "repeats": BLOCK_STEPS,
        "context": {
            "config": "configs/emoji.py:quick", "on_device_seconds": on_device,
            "on_host_seconds": on_host,
        },
    }  # fmt: skip


def _seconds(call, n: int) -> float:
    """Median of n calls; a first one, that compiles, is left out."""
    call()
    times = []
    for _ in range(n):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _trainer(folder: pathlib.Path):
    """A joint run on the shipped pool, its reference trained for two steps."""
    reference = _emoji("reference,quick,steps=2")
    reference.optimizer.warmup_steps = 1
    reference.evals = {}
    loop.train(reference, str(folder / "reference"))
    config = _emoji("policy=joint,quick")
    config.reference.workdir = str(folder / "reference")
    runtime = strategy.build(config)
    workdir = open_workdir(folder / "joint", config.to_dict())
    return loop.Trainer(config, workdir, runtime)


def _emoji(argument: str):
    config = config_flag.load(CONFIG, argument)
    config.data.data_dir = _DATA_DIR.value
    return config


def report_rows() -> list[dict]:
    """Seconds and size of the page of a 2,000-step run with examples of 20 steps."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(pathlib.Path(folder) / "run", REPORT_STEPS, REPORT_SAMPLES)
        out, seconds = pathlib.Path(folder) / "report.html", []
        for _ in range(3):
            started = time.perf_counter()
            out.write_text(page(load_runs([str(run)], N_SAMPLE_STEPS), "bench"), encoding="utf-8")
            seconds.append(time.perf_counter() - started)
        n_bytes = out.stat().st_size
    context = {"steps": REPORT_STEPS, "images": "noise, the worst for PNG", "logged_every": 1}
    common = {"denominator": 1, "repeats": 3, "context": context}
    return [
        {"figure": "report_seconds", "value": max(seconds), "goal": "< 20", "unit": "s",
         "numerator": max(seconds), **common},
        {"figure": "report_megabytes", "value": n_bytes / 1e6, "goal": "< 10", "unit": "MB",
         "numerator": n_bytes / 1e6, **common},
    ]  # fmt: skip


def query_rows(variant: str) -> list[dict]:
    """A text query from string to the rows found, and how right they are, for one model."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        export, embed_dim = random_export(folder, variant)
        info = json.loads((folder / "export" / "model.json").read_text())
        z = unit(np.random.default_rng(0), N_IMAGES, embed_dim)
        model = {"path": export, "fingerprint": info["fingerprint"]}
        index = ImageIndex.create(folder / "index", embed_dim, model)
        index.add([Item(f"{i}.png") for i in range(N_IMAGES)], z)
        searcher = Searcher(folder / "index")
        totals, encodings = [], []
        for i in range(N_QUERIES):
            started = time.perf_counter()
            found = searcher.find([f"{QUERY} {i}"], [], K)
            totals.append(time.perf_counter() - started)
            started = time.perf_counter()
            ztxt = searcher.encoder.encode_text([f"{QUERY} {i}"])
            encodings.append(time.perf_counter() - started)
        rows = [hit["row"] for hit in found["queries"][0]["results"]]
        truth = set(np.argsort(-(z.astype(np.float64) @ ztxt[0].astype(np.float64)))[:K].tolist())
    milliseconds = 1e3 * statistics.median(totals)
    context = {
        "model": variant, "d": embed_dim, "images": N_IMAGES,
        "encode_ms": 1e3 * statistics.median(encodings), "slowest_ms": 1e3 * max(totals),
        "load_seconds": searcher.load_seconds,
    }  # fmt: skip
    recall = len(truth & set(rows)) / K
    return [
        {"figure": f"text_query_{variant}", "value": milliseconds, "goal": "< 100", "unit": "ms",
         "numerator": milliseconds, "denominator": 1, "repeats": N_QUERIES, "context": context},
        {"figure": f"query_recall@10_{variant}", "value": recall, "goal": "= 1", "unit": "share",
         "numerator": len(truth & set(rows)), "denominator": K, "repeats": 1,
         "context": {"truth": "float64 scores of all images, sorted", "images": N_IMAGES}},
    ]  # fmt: skip


def random_export(folder: pathlib.Path, variant: str) -> tuple[str, int]:
    """Path of an export of a model with random weights, and its width."""
    config = VARIANTS[variant]
    train_wordpiece([QUERY, "0 1 2 3 4 5 6 7 8 9"] * 20, 100, str(folder / "vocab.txt"))
    tokenizer = Tokenizer(str(folder / "vocab.txt"), config.n_tokens)
    path = str(folder / "export")
    export_dual_encoder(DualEncoder(config), tokenizer, config.image_size, path, {"name": variant})
    return path, config.embed_dim


def retrieval_rows() -> list[dict]:
    """Both ways, COCO's 5,000 images with 5 captions each, from embeddings to metrics."""
    figures = in_own_process("benchmarks.monitoring", "--part=retrieval")
    context = {
        "images": RETRIEVAL_IMAGES, "texts": RETRIEVAL_IMAGES * CAPTIONS_PER_IMAGE,
        "d": RETRIEVAL_DIM, "peak": "resident memory above that before, embeddings left out",
    }  # fmt: skip
    common = {"denominator": 1, "repeats": 1, "context": context}
    return [
        {"figure": "retrieval_seconds", "value": figures["seconds"], "goal": "< 60", "unit": "s",
         "numerator": figures["seconds"], **common},
        {"figure": "retrieval_peak_gb", "value": figures["bytes"] / 1e9, "goal": "< 2",
         "unit": "GB", "numerator": figures["bytes"] / 1e9, **common},
    ]  # fmt: skip


def measure_retrieval() -> dict:
    rng = np.random.default_rng(0)
    n_texts = RETRIEVAL_IMAGES * CAPTIONS_PER_IMAGE
    zimg, ztxt = (unit(rng, n, RETRIEVAL_DIM) for n in (RETRIEVAL_IMAGES, n_texts))
    texts = np.arange(n_texts)
    positives = Positives(texts // CAPTIONS_PER_IMAGE, texts, RETRIEVAL_IMAGES, n_texts)
    started = time.perf_counter()
    n_bytes = peak_extra_bytes(lambda: retrieval_metrics(zimg, ztxt, positives))
    return {"seconds": time.perf_counter() - started, "bytes": n_bytes}


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    z = rng.standard_normal((n, d), np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def main(_: list[str]) -> None:
    """Prints the figures asked for."""
    if _PART.value == "retrieval":
        print(json.dumps(measure_retrieval()))
        return
    logging.set_verbosity(logging.ERROR)
    groups = {
        "logging": lambda: [logging_row()],
        "ledger": lambda: [ledger_row()],
        "report": report_rows,
        "query": lambda: itertools.chain.from_iterable(map(query_rows, _VARIANTS.value)),
        "retrieval": retrieval_rows,
    }
    if unknown := set(_FIGURES.value) - set(groups):
        raise UserError(f"--figures has {sorted(unknown)}: expected some of {list(groups)}")
    for name in _FIGURES.value:
        for row in groups[name]():
            emit(**row)


if __name__ == "__main__":
    cli.run(main, FLAGS)
