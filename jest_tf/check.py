"""Checks a run before it starts: sizes, data, reference, memory, cost. It needs no accelerator.

    python -m jest_tf.check --config=configs/emoji.py:policy=uniform
    python -m jest_tf.check --config=configs/jest_b16.py --nodata --compile_for=v5p:4x4x8
    python -m jest_tf.check --config=configs/emoji.py --all_records --report=runs/data_report

It prints one page. Exit codes: 0 no problem found, 1 the page names a problem, 2 wrong flags.
"""

import os

from absl import logging

from jest_tf import cli, config_flag
from jest_tf.config import settle
from jest_tf.devices import GIB, Topology, n_gpus, parse_device, parse_topology
from jest_tf.errors import UserError
from jest_tf.preflight.report import Section, check_sizes, n_problems, render
from jest_tf.progress import Counter
from jest_tf.tuning import follow_init

EXIT_PROBLEMS = 1

FLAGS, _flag = cli.own_flags()
_CONFIG = config_flag.define()
_REPLICAS = _flag(
    "integer", "replicas", 0, "Replicas of the run; 0: the chips of --compile_for, or "
    "strategy.n_devices.", lower_bound=0,
)  # fmt: skip
_HOSTS = _flag("integer", "hosts", 0, "Of the run; 0: those of --compile_for, or 1.", lower_bound=0)
_DEVICE = _flag(
    "string", "device", "", "What each replica runs on: v5e, v4, v5p, v6e, or cpu:24GiB, "
    "gpu:80GiB. Default: that of --compile_for, or this machine's memory, shared by its "
    "replicas.",
)  # fmt: skip
_DATA = _flag("boolean", "data", True, "Look at data and reference; --nodata: neither is at hand.")
_ALL_RECORDS = _flag(
    "boolean", "all_records", False, "Read all records of data.train, nothing else."
)
_REPORT = _flag("string", "report", "data_report", "Folder for what --all_records finds.")
_COMPILE_FOR = _flag("string", "compile_for", "", "Compile the step for this slice, e.g. v5e:2x4.")
_COMPILE_ENV = _flag(
    "string", "tpu_compile_env", os.environ.get("JEST_TPU_COMPILE_ENV", ".venv-tpu-compile"), ""
    "The environment that launch/tpu_compile_env.sh made.",
)  # fmt: skip


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # The page is all that is said.
    config_flag.refuse_extra(argv)
    config = config_flag.value_of(_CONFIG)
    follow_init(config, "")
    settle(config)
    topology = parse_topology(_COMPILE_FOR.value) if _COMPILE_FOR.value else None
    n_replicas, n_hosts = _layout(config, topology)
    if _ALL_RECORDS.value:
        from jest_tf.preflight.data_checks import check_records

        section = check_records(config, n_replicas, _REPORT.value)
        print(render([section]))
        return EXIT_PROBLEMS if section.problems else 0
    device = topology and topology.device
    if _DEVICE.value or not device:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
        device = parse_device(_DEVICE.value or f"cpu:{memory / (n_replicas // n_hosts):.3f}GiB")

    sections = [check_sizes(config, n_replicas, n_hosts)]
    if not n_problems(sections):  # Importing TensorFlow takes seconds: only for a sound config.
        sections += _with_tensorflow(config, n_replicas, n_hosts, device, topology)
    print(f"{config.name}: {config.selection.policy}, {config.model.variant}")
    print(render(sections))
    return EXIT_PROBLEMS if n_problems(sections) else 0


def _with_tensorflow(config, n_replicas, n_hosts, device, topology) -> list[Section]:
    from jest_tf.config import needs_reference
    from jest_tf.preflight import compiling, data_checks
    from jest_tf.preflight.cost import check_cost, check_memory
    from jest_tf.training.assemble import parts_of

    sections, reference = [], None
    progress = Counter("check", 3 + bool(topology), "parts")
    if _DATA.value:
        sections.append(data_checks.check_data(config, n_hosts))
        if "records" in dict(sections[-1].rows):  # a set that is prepared
            sections.append(data_checks.check_mates(config))
        if needs_reference(config):
            sections.append(data_checks.check_reference(config))
            if not sections[-1].problems:
                reference = data_checks.reference_config(config)
    progress.add()
    try:
        parts = parts_of(config, n_replicas, reference)
    except UserError as error:
        return [*sections, Section("Model, policy, resolution", problems=[str(error)])]
    progress.add()
    memory = check_memory(config, parts, n_replicas, device)
    sections += [memory, check_cost(config, parts, n_replicas, device)]
    progress.add()
    if topology:
        if memory.problems:  # The compiler's word counts, not the estimate's.
            memory.add("note", f"an estimate: {memory.problems.pop()}")
        run = compiling.programs(config, parts, topology, _COMPILE_ENV.value, reference)
        sections.append(compiling.check_compile(topology, run))
        progress.add()
    progress.close()
    return sections


def _layout(config, topology: Topology | None) -> tuple[int, int]:
    """(replicas, hosts) of the run; UserError: neither config nor flags say."""
    kind = config.strategy.kind
    if kind == "tpu" and not topology and not (_REPLICAS.value and _DEVICE.value):
        raise UserError(
            "strategy.kind = 'tpu' does not say on which slice. Give --compile_for=v5e:2x4, or "
            "--replicas, --hosts and --device."
        )
    if kind == "multi_worker" and not _REPLICAS.value:
        raise UserError(
            "strategy.kind = 'multi_worker' does not say how many workers. Give --replicas and "
            "--hosts."
        )
    n_devices = config.strategy.n_devices or n_gpus() if kind == "mirrored" else 1
    n_replicas = _REPLICAS.value or (topology.n_chips if topology else n_devices or 1)
    n_hosts = _HOSTS.value or (topology.n_hosts if topology else 1)
    if topology and n_replicas != topology.n_chips:
        raise UserError(
            f"--replicas={n_replicas}, but {topology.name} has {topology.n_chips} chips, one "
            "replica each. Leave --replicas out."
        )
    if n_hosts > n_replicas:
        raise UserError(f"--hosts={n_hosts} is more than the {n_replicas} replica(s).")
    return n_replicas, n_hosts


if __name__ == "__main__":
    cli.run(main, FLAGS)
