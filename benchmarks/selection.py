"""How fast and how small the selection is, against the listing and against arithmetic itself.

    python -m benchmarks.selection [--groups=dense,floor,narrow,memory,…] [--full]
    python -m benchmarks.selection --write_docs     # tables of docs/selection.md, from the lines

Prints one JSON object per line, and keeps it in --results. Both sides of a ratio are timed in turns
in one run, on a machine that has nothing else to do. `--full` adds the paper's sizes
(B = 163,840, b = 32,768, d = 768), which take minutes; `--groups= --full` is they alone.
"""

import functools
import importlib.util
import itertools
import json
import os
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import figures, selection_report
from benchmarks.dense_listing import dense_listing
from benchmarks.timing import fastest, in_own_process, peak_extra_bytes
from jest_tf.runtime.collectives import ReplicaCollectives
from jest_tf.selection import LOCAL, Embeddings, SelectionSpec, gather_picked, select
from jest_tf.training.cost import joint_pairs, select_flops

FULL = flags.DEFINE_bool("full", False, "Also the paper's sizes.")
REPEATS = flags.DEFINE_integer("repeats", 15, "Timed calls of each program; the fastest counts.")
GROUPS = ["dense", "floor", "narrow", "memory", "growth", "step", "torch"]
CHOSEN = flags.DEFINE_list("groups", GROUPS, "What to print.")
LOSSES = flags.DEFINE_multi_enum(
    "loss", ["sigmoid", "softmax"], ["sigmoid", "softmax"], "Which losses; may be repeated."
)
RESULTS = flags.DEFINE_string(
    "results", selection_report.RESULTS, "File of all lines, the last of each case; '' keeps none."
)
WRITE_DOCS = flags.DEFINE_bool("write_docs", False, "Write the tables, and measure nothing.")
MEASURE, TIME = (
    flags.DEFINE_string(
        name, None, f"B,b,d,n_chunks,loss,replicas: {what}, in a process that this program starts."
    )
    for name, what in (("measure", "one memory measurement"), ("time", "one timing"))
)

SIZES = {"super_batch": 10_240, "sub_batch": 1_024, "n_chunks": 16}
MEMORY_SIZES = {"super_batch": 40_960, "sub_batch": 4_096, "n_chunks": 16}
PAPER_SIZES = {"super_batch": 163_840, "sub_batch": 32_768, "n_chunks": 16}
SEED = (0, 1)


def random_models(n: int, d: int) -> list[Embeddings]:
    """Learner and reference as early in training: unit rows, texts near their images."""
    rng = np.random.default_rng(0)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def model():
        zimg = unit(rng.standard_normal((n, d), np.float32))
        ztxt = unit(zimg + rng.standard_normal((n, d), np.float32) / np.float32(d**0.5))
        return Embeddings(*map(tf.constant, (zimg, ztxt, 10.0, -10.0)))

    return [model(), model()]


def program(spec: SelectionSpec, d: int, replicas: int = 1):
    """() -> positions, on one device or on that many logical devices."""
    n = spec.super_batch // replicas
    models = random_models(spec.super_batch, d)
    if replicas == 1:
        return lambda: select(spec, *models, tf.ones([n], tf.bool), tf.constant(SEED)).positions

    strategy = mirrored(replicas)

    def rows(side, rank):
        return side[rank * n : (rank + 1) * n]

    shards = [
        strategy.experimental_distribute_values_from_function(
            lambda context, side=side: tf.identity(rows(side, context.replica_id_in_sync_group))
        )
        for model in models
        for side in (model.zimg, model.ztxt)
    ]
    del models[:]

    @tf.function(autograph=False)
    def run(shards):
        def replica(*sides):
            learner, reference = (
                Embeddings(*sides[i : i + 2], tf.constant(10.0), tf.constant(-10.0)) for i in (0, 2)
            )
            everyone = tf.ones([n], tf.bool)
            collectives = ReplicaCollectives()
            return select(spec, learner, reference, everyone, tf.constant(SEED), collectives)

        return strategy.run(replica, shards)  # Its metrics too, as on one device.

    return lambda: strategy.experimental_local_results(run(shards).positions)[0]


def mirrored(replicas: int) -> tf.distribute.Strategy:
    """That many logical devices of this machine."""
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        # The default keeps one collective group per process, and several programs run here.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def emit(figure: str, value: float | None, goal: str, unit: str, **details) -> None:
    """Prints one figure, and keeps it where asked."""
    line = figures.emit(figure, value, goal, unit, **details)
    if RESULTS.value:
        selection_report.keep(RESULTS.value, line)


def rates() -> dict:
    """Programs whose speed is the floor: a large matmul, exponentials and softplus in a block."""
    square = tf.random.normal([4096, 4096])
    block = tf.random.normal([4096, 1024])
    compiled = tf.function(jit_compile=True)
    return {
        "matmul": lambda f=compiled(lambda: tf.matmul(square, square)[0]): f(),
        "exp": lambda f=compiled(lambda: tf.reduce_sum(tf.exp(-tf.abs(block)), 1)): f(),
        "softplus": lambda f=compiled(lambda: tf.reduce_sum(tf.math.softplus(block), 1)): f(),
    }


def floor_seconds(spec: SelectionSpec, d: int, seconds: dict[str, float], function: str) -> float:
    """The selection's FLOPs and its `function` evaluations at the rates measured in this run."""
    flops = select_flops(spec, [d, d]) / (2 * 4096**3 / seconds["matmul"])
    pairs = 4 * joint_pairs(spec)  # 2 models, 2 directions
    return flops + pairs / (4096 * 1024 / seconds[function])


def dense_figures() -> None:
    d = 512
    for loss in LOSSES.value:
        spec = SelectionSpec(loss=loss, **SIZES)
        models = random_models(spec.super_batch, d)
        ours = program(spec, d)
        dense = {"dense": lambda s=spec, m=models: dense_listing(s, *m, tf.constant(SEED))}
        same = len(set(ours().numpy()) & set(dense["dense"]().numpy())) / spec.sub_batch
        seconds = fastest({"ours": ours} | dense, max(2, REPEATS.value // 2))
        emit(
            f"dense_speedup_{loss}", seconds["dense"] / seconds["ours"], ">= 8", "x",
            numerator=seconds["dense"], denominator=seconds["ours"],
            repeats=max(2, REPEATS.value // 2), context={**SIZES, "d": d, "same_picks": same},
        )  # fmt: skip


def floor_figures() -> None:
    """Time over the arithmetic alone, which is that of one device with all cores.

    The softmax form needs an exponential per pair. The goal counts a softplus per pair for the
    sigmoid form; because ours gets by with an exponential and a product, the harder floor is shown.
    """
    d = 512
    for loss in LOSSES.value:
        spec = SelectionSpec(loss=loss, **SIZES)
        floors = [("over_floor", "<= 1.3", "exp" if loss == "softmax" else "softplus")]
        if loss == "sigmoid":
            floors.append(("over_exp_floor", "-", "exp"))
        alone = fastest({"select": program(spec, d)} | rates(), REPEATS.value)
        shared = in_own_process(
            "benchmarks.selection", f"--time={_sizes(spec, d, 2)}",
            f"--repeats={REPEATS.value}",
        )  # fmt: skip
        for replicas, took in ((1, alone["select"]), (2, shared["select"])):
            for figure, goal, function in floors:
                floor = floor_seconds(spec, d, alone, function)
                emit(
                    figure, took / floor, goal, "x",
                    numerator=took, denominator=floor, repeats=REPEATS.value,
                    context={
                        **SIZES, "d": d, "loss": loss, "replicas": replicas, "counted": function,
                        "matmul_gflops": 2 * 4096**3 / alone["matmul"] / 1e9,
                        "function_per_ns": 4096 * 1024 / alone[function] / 1e9,
                    },
                )  # fmt: skip


def narrow_figures() -> None:
    """What a product with as few columns as a chunk has picks reaches of the large one's rate."""
    B, d = SIZES["super_batch"], 512
    candidates = tf.random.normal([B, d])
    programs = {"matmul": rates()["matmul"]}
    for columns in (16, 64, 128, 256):
        picked = tf.random.normal([d, columns])
        program = tf.function(lambda rows, picked=picked: rows @ picked, jit_compile=True)
        programs[columns] = functools.partial(program, candidates)
    seconds = fastest(programs, REPEATS.value)
    large = 2 * 4096**3 / seconds.pop("matmul")
    for columns, took in seconds.items():
        emit(
            "narrow_product_rate", 2 * B * d * columns / took / large, "-", "of the large one's",
            numerator=2 * B * d * columns / took, denominator=large, repeats=REPEATS.value,
            context={"super_batch": B, "d": d, "columns": columns},
        )  # fmt: skip


def memory_figures() -> None:
    for loss, replicas in itertools.product(LOSSES.value, (1, 2)):
        spec, d = SelectionSpec(loss=loss, **MEMORY_SIZES), 512
        told = measured(spec, d, replicas)
        matrix = 4 * spec.super_batch**2
        for figure, peak, goal in (
            ("peak_memory_share", told["peak_extra_bytes"], "<= 0.05"),
            ("peak_memory_share_of_first_call", told["first_peak_extra_bytes"], "-"),
        ):
            emit(
                figure, peak / matrix, goal, "of fp32 BxB", numerator=peak, denominator=matrix,
                repeats=1, context={**MEMORY_SIZES, "d": d, "loss": loss, "replicas": replicas},
            )  # fmt: skip


def growth_figures() -> None:
    for figure, cases in (
        ("growth_B", [({"super_batch": B, "sub_batch": B // 10, "n_chunks": 16}, 512)
                      for B in (5_120, 10_240, 20_480, 40_960)]),
        ("growth_d", [(SIZES, d) for d in (128, 256, 512, 1024)]),
        ("growth_N", [(SIZES | {"n_chunks": N}, 512) for N in (4, 16, 64)]),
    ):  # fmt: skip
        for replicas in (1, 2):
            _growth(figure, cases, replicas)


def _growth(figure: str, cases: list, replicas: int) -> None:
    """Time against the floor's time (exponentials counted), largest case over smallest."""
    repeats = max(2, REPEATS.value // 3)
    specs = [SelectionSpec(**sizes) for sizes, _ in cases]
    programs = {
        i: program(spec, d, replicas)
        for i, (spec, (_, d)) in enumerate(zip(specs, cases, strict=True))
    }
    seconds = fastest(programs | rates(), repeats)
    floors = [
        floor_seconds(spec, d, seconds, "exp") for spec, (_, d) in zip(specs, cases, strict=True)
    ]
    last = len(cases) - 1
    emit(
        figure, (seconds[last] / seconds[0]) / (floors[last] / floors[0]), "<= 1", "of the floor's",
        numerator=seconds[last] / seconds[0], denominator=floors[last] / floors[0], repeats=repeats,
        context={
            "replicas": replicas, "cases": [[*sizes.values(), d] for sizes, d in cases],
            "seconds": [float(f"{seconds[i]:.3g}") for i in range(len(cases))],
        },
    )  # fmt: skip


def step_figures() -> None:
    from benchmarks.step_cost import MEASURED_BATCHES, RECIPES, Step, plan_of, specs
    from jest_tf.models.dual_encoder import VARIANTS
    from jest_tf.training.cost import CostModel

    model = VARIANTS["B"]
    spec, _ = specs(PAPER_SIZES["super_batch"], PAPER_SIZES["sub_batch"])
    cost = CostModel(model, spec, model.image_size, model).step(
        plan_of(RECIPES["jest"], model, spec.sub_batch)
    )
    emit(
        "step_share_flops", cost.flops["select"] / cost.total_flops, "<= 0.02", "of a JEST step",
        numerator=float(cost.flops["select"]), denominator=float(cost.total_flops), repeats=0,
        context={**PAPER_SIZES, "model": "B", "d": model.embed_dim},
    )  # fmt: skip

    model = VARIANTS["mu"]
    spec, _ = specs(*MEASURED_BATCHES)
    step = Step(model, spec, plan_of(RECIPES["jest"], model, spec.sub_batch))
    choose = step.parts()["select"]
    side = model.image_size
    images = tf.zeros([spec.super_batch, side, side, 3], tf.uint8)

    @tf.function(jit_compile=True)
    def gather(positions):
        return gather_picked(images, positions, LOCAL)

    positions = choose().positions
    programs = {"step": step.whole, "select": choose, "gather": lambda: gather(positions)}
    seconds = fastest(programs, REPEATS.value)
    part = seconds["select"] + seconds["gather"]
    emit(
        "step_share_measured", part / seconds["step"], "<= 0.05", "of a JEST step",
        numerator=part, denominator=seconds["step"], repeats=REPEATS.value,
        context={
            "super_batch": spec.super_batch, "sub_batch": spec.sub_batch,
            "n_chunks": spec.n_chunks, "model": "mu",
        },
    )  # fmt: skip


def torch_figures() -> None:
    if importlib.util.find_spec("torch") is None:
        emit(
            "vs_torch_listing", None, "> 1", "x",
            context="torch is not installed; `pip install torch==2.13.0` gives this figure",
        )  # fmt: skip
        return
    # Threads of OpenMP that wait for work would otherwise take the cores from our turn.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from benchmarks.torch_listing import torch_listing

    for loss in LOSSES.value:
        spec, d = SelectionSpec(loss=loss, **SIZES), 512
        models = [[np.asarray(x) for x in model] for model in random_models(spec.super_batch, d)]
        repeats = max(2, REPEATS.value // 2)
        seconds = fastest(
            {
                "ours": program(spec, d),
                "torch": lambda s=spec, m=models: torch_listing(s, *m, seed=0),
            },
            repeats,
        )
        emit(
            "vs_torch_listing", seconds["torch"] / seconds["ours"], "> 1", "x",
            numerator=seconds["torch"], denominator=seconds["ours"], repeats=repeats,
            context={**SIZES, "d": d, "loss": loss},
        )  # fmt: skip


def paper_figures() -> None:
    for loss in LOSSES.value:
        told = measured(SelectionSpec(loss=loss, **PAPER_SIZES), 768, 1)
        context = {**PAPER_SIZES, "d": 768, "loss": loss}
        emit("paper_scale_seconds", told["seconds"], "completes", "s", repeats=1, context=context)
        gib = told["peak_extra_bytes"] / 2**30
        emit("paper_scale_peak_gib", gib, "completes", "GiB", repeats=1, context=context)


def measured(spec: SelectionSpec, d: int, replicas: int) -> dict:
    """Seconds of a first call and peak extra memory of it and of a second, in a new process."""
    return in_own_process("benchmarks.selection", f"--measure={_sizes(spec, d, replicas)}")


def measure(spec: SelectionSpec, d: int, replicas: int) -> dict:
    """The other side of `measured`. The first call also compiles; a run makes it once."""
    program(SelectionSpec(640 * replicas, 64, loss=spec.loss), 64, replicas)()
    run = program(spec, d, replicas)  # After TensorFlow's own memory, by the small one.
    start = time.perf_counter()
    first_peak = peak_extra_bytes(run)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "first_peak_extra_bytes": first_peak,
        "peak_extra_bytes": peak_extra_bytes(run),
    }


def time_on_devices(spec: SelectionSpec, d: int, replicas: int) -> dict:
    """Seconds of the selection on logical devices that have a core each."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    return fastest({"select": program(spec, d, replicas)}, REPEATS.value)


def _sizes(spec: SelectionSpec, d: int, replicas: int) -> str:
    sizes = (spec.super_batch, spec.sub_batch, d, spec.n_chunks, spec.loss, replicas)
    return ",".join(map(str, sizes))


def _of_sizes(sizes: str) -> tuple[SelectionSpec, int, int]:
    B, b, d, n_chunks, loss, replicas = sizes.split(",")
    return SelectionSpec(int(B), int(b), loss=loss, n_chunks=int(n_chunks)), int(d), int(replicas)


def main(_: list[str]) -> None:
    # Two devices for the distributed form; must come before TensorFlow touches any.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    for asked, answer in ((MEASURE.value, measure), (TIME.value, time_on_devices)):
        if asked:
            print(json.dumps(answer(*_of_sizes(asked))))
            return
    if WRITE_DOCS.value:
        selection_report.write(RESULTS.value)
        return
    groups = {
        "dense": dense_figures,
        "floor": floor_figures,
        "narrow": narrow_figures,
        "memory": memory_figures,
        "growth": growth_figures,
        "step": step_figures,
        "torch": torch_figures,
    }
    unknown = set(filter(None, CHOSEN.value)) - set(groups)
    if unknown:
        raise app.UsageError(f"--groups has {sorted(unknown)}: expected some of {list(groups)}")
    for name in filter(None, CHOSEN.value):
        groups[name]()
    if FULL.value:
        paper_figures()


if __name__ == "__main__":
    app.run(main)
