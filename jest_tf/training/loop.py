"""The training loop: steps, their cost and selection, evaluations, checkpoints.

Order within an iteration: steps -> refusals -> log -> save -> evaluate -> stop if asked to. A
checkpoint holds everything needed to resume. Logs store the step of each line; on resume, lines
after the restored step are deleted. A checkpoint is written while training goes on. A run has saved
before it evaluates, so that a kill in a long evaluation loses no step; the next start makes up for
the evaluation, whose result is missing.
"""

import dataclasses
import functools
import math
import secrets
import time
from collections.abc import Callable, Iterator

import ml_collections
import tensorflow as tf
from absl import logging

from jest_tf.config import profiled_steps
from jest_tf.config_checks import data_problems, replica_problems, require_sound
from jest_tf.data.pipeline import Shared, super_batches
from jest_tf.data.retry import BadRecords, reason_of, resilient_steps, unreadable
from jest_tf.data.sources import register
from jest_tf.errors import UserError
from jest_tf.evaluation.evaluators import require_data
from jest_tf.monitoring.profiler import StepProfiler
from jest_tf.runtime import strategy
from jest_tf.runtime.interrupt import Interrupt
from jest_tf.runtime.peers import WorkerLost, is_read_error
from jest_tf.runtime.strategy import Runtime
from jest_tf.training import assemble, cache_fill, calibration, inputs
from jest_tf.training.assemble import choose_trained
from jest_tf.training.cost import CostLedger, CostModel
from jest_tf.training.evaluating import Evaluations
from jest_tf.training.host_loop import HostLoop, OnSteps, ignore
from jest_tf.training.jest_model import JestModel
from jest_tf.training.run import restore
from jest_tf.training.run.checkpoint import Checkpointer
from jest_tf.training.run.outputs import Files, Silent
from jest_tf.training.run.shards import ALONE, Group
from jest_tf.training.run.workdir import Workdir, open_workdir
from jest_tf.training.step_log import Pending, StepLog

EXIT_STOPPED = 3  # too many refused steps in a row, or a score fell too far; saved
FORGOT = 1000  # added to a signal's number where a score fell too far
SAVE = 10_000  # added where a checkpoint is due by the clock
EXIT_WORKER_LOST = 4  # another worker process or host is gone; the last checkpoint is kept
# Read errors without a new step in between; the waits double from a second on.
MAX_RETRIES = 5


def train(config: ml_collections.ConfigDict, workdir_path: str, on_steps: OnSteps = ignore) -> int:
    """Trains until `config.total_steps`, from the newest checkpoint of the workdir if there is one.

    Calls `on_steps(step, result)` after each call of the device loop, before its steps are saved.

    Returns the exit code of the command, see `jest_tf.train`. UserError: anything wrong with
    config, data, devices or workdir, found before the first step.
    """
    if config.strategy.deterministic:
        tf.config.experimental.enable_op_determinism()
    register(config.data.tfds_module)
    runtime = strategy.build(config)
    require_sound(replica_problems(config, runtime.n_hosts, runtime.n_replicas))
    try:
        with (
            open_workdir(workdir_path, config.to_dict(), is_writer=runtime.is_chief) as workdir,
            runtime.peers.watched(),
        ):
            begin = functools.partial(Trainer, config, workdir, runtime, on_steps)
            return run_reading_again(begin) if runtime.steps_in_graph else begin().run()
    except WorkerLost:
        return EXIT_WORKER_LOST


class Trainer:
    """One run: its parts, its state, and the loop over its steps."""

    def __init__(self, config, workdir: Workdir, runtime: Runtime, on_steps: OnSteps = ignore):
        self.config, self.workdir, self.runtime, self.on_steps = config, workdir, runtime, on_steps
        with runtime.peers.chief_first():
            self._prepare()
        with runtime.strategy.scope():
            self.model = self._build_model()
        self.checkpoints = Checkpointer(
            str(workdir.checkpoints), config.checkpoint.keep, self._savers()
        )
        self.ledger = CostLedger()
        self.bad_records = BadRecords(config.data.max_bad_share)
        self.step = self._restore()
        self.shared_input = Shared()
        began = (workdir.path / "config.json").exists()
        runtime.peers.require_equal(
            self.step if began else -1,
            f"The worker processes see different runs in {workdir.path}. Give all of them one "
            "folder that they share as --workdir. Steps to start at (-1: nothing is there):",
        )
        self.host_loop = HostLoop(self.model, runtime, self._batches())
        state = workdir, self.step, self.ledger.totals, self.inputs.manifest.n_records
        self.outputs = Files(config, *state) if runtime.is_chief else Silent()
        steps = profiled_steps(config.profile.steps) if runtime.is_chief else None
        self.profiler = StepProfiler(steps, workdir.tensorboard)
        self.step_log = StepLog(
            config, self.inputs, self.host_loop, self.outputs, self.costs, self.ledger,
            self.bad_records,
        )  # fmt: skip
        self.evaluations = Evaluations(
            config, workdir, self.model, self.inputs.tokenizer, self.outputs, runtime
        )
        cadences = [config.log.every_steps, config.checkpoint.every_steps]
        cadences += [spec.every_steps for spec in config.evals.values()]
        self.cadences = [every for every in cadences if every]
        self.saved_at, self.has_asked, self.save_is_due = time.monotonic(), False, False
        self.pending: Pending | None = None

    def run(self) -> int:
        """Runs to the end, an interrupt, or too many refused steps; returns the exit code."""
        total = self.config.total_steps
        self._announce()
        with Interrupt() as interrupt, self.runtime.peers.watched(), self.checkpoints:
            if self.config.model.init and not self.step:
                self._save()  # so that a rerun does not depend on `model.init`
            if self.config.model.init or self.step:
                self._evaluate_if_due()
            while self.step < total and not self._stopping(interrupt):
                # No log, evaluation or save may fall inside a host loop.
                events = [every - self.step % every for every in self.cadences]
                events += [total - self.step, self.schedule.steps_left(self.step)]
                self._advance(min(self.config.strategy.steps_per_loop, *events))
                every = self.config.checkpoint.every_steps
                if self.save_is_due or self.step >= total or (every and self.step % every == 0):
                    self._save()
                self._evaluate_if_due()
            self._save()
        self.profiler.stop()
        if self.step >= total:
            self.outputs.finished(self.step, self.evaluations.scores)
        self.outputs.close()
        if self.evaluations.stopped:
            logging.error("Stopped at step %d, saved: %s", self.step, self.evaluations.stopped)
            return EXIT_STOPPED
        if self.step_log.is_stuck:
            logging.error(
                "Stopped at step %d: %d steps in a row were refused; see %s. The last good state "
                "is saved.",
                self.step, self.step_log.refused_in_a_row,
                self.workdir.path / "refused_steps.jsonl",
            )  # fmt: skip
            return EXIT_STOPPED
        if interrupt.requested:
            logging.warning(
                "%s: saved at step %d of %d; rerun the same command to continue.",
                interrupt.reason, self.step, total,
            )  # fmt: skip
        return interrupt.exit_code

    def _prepare(self) -> None:
        """Everything that is read or made before the model, and that workers may share."""
        config, workdir = self.config, self.workdir
        self.inputs = inputs.open_inputs(
            config, workdir.path, workdir.is_new, self.runtime.is_chief
        )
        for name, spec in config.evals.items():
            require_data(name, spec.to_dict(), config.data.data_dir)
        self.image_cache = cache_fill.open_image_cache(
            config, self.inputs.manifest, workdir, self.runtime
        )
        self.cache = restore.open_cache(config, self.inputs.manifest)
        fingerprints = self.inputs.fingerprints
        if self.cache:
            fingerprints["reference cache"] = self.cache.identity
        if self.image_cache:
            fingerprints["image cache"] = self.image_cache.identity
        if not self.runtime.is_chief:
            workdir.compare(fingerprints)
            self.calibration = calibration.of_run(config, workdir.path)
            return
        record = workdir.path / restore.REFERENCE_RECORD
        restore.choose_reference(config, record, again=workdir.is_new)
        self.calibration = calibration.of_run(config, workdir.path, again=workdir.is_new)
        workdir.claim(fingerprints)
        if workdir.is_new:
            inputs.keep_inputs(self.inputs, workdir.path)

    def _savers(self) -> Group:
        """The worker processes, with a token of this start that the chief draws."""
        peers, is_chief = self.runtime.peers, self.runtime.is_chief
        if peers.n_workers == 1:
            return ALONE
        token = max(peers.of_all(secrets.randbits(48) if is_chief else 0))
        return Group(self.runtime.worker, peers.n_workers, f"{token:x}")

    def _build_model(self) -> JestModel:
        config, n_replicas = self.config, self.runtime.n_replicas
        tokenizer, pixels = self.inputs.tokenizer, self.inputs.pixels
        learner = assemble.build_model(config, tokenizer.vocab_size, pixels)
        choose_trained(learner, config)
        if self.runtime.is_chief:
            own = inputs.model_record(learner, tokenizer, config.data.image_size)
            own.save(self.workdir.path)
        record = self.workdir.path / restore.REFERENCE_RECORD
        how = record, pixels, self.runtime.is_chief
        reference = restore.load_reference(config, tokenizer, *how)
        if reference and self.calibration:
            reference.log_scale.assign(math.log(self.calibration.scale))
            reference.bias.assign(self.calibration.bias)
        sizes = learner.config, reference.config if reference else None
        self.schedule = assemble.resolution_schedule(config, *sizes, n_replicas)
        dim = self.cache.dim if self.cache else None
        spec = assemble.selection_spec(config)
        self.costs = CostModel.of(config, learner.config, spec, sizes[1], n_replicas, dim)
        logits = self.calibration or self.cache
        return assemble.build_jest_model(
            config, learner, reference, self.schedule.plan(0), self.runtime.collectives,
            (logits.scale, logits.bias) if self.cache else None, self.runtime.compile_parts,
        )  # fmt: skip

    def _variables(self) -> dict:
        learner, optimizer = self.model.learner, self.model.optimizer
        of_weights = zip(optimizer.averages, learner.trainable_variables, strict=False)
        names = {average.path: restore.AVERAGE + weight.path for average, weight in of_weights}
        return restore.learner_variables(learner) | {
            names.get(v.path, restore.OPTIMIZER + v.path): v for v in optimizer.variables
        }

    def _restore(self) -> int:
        """Restores the newest sound checkpoint, or starts; returns the number of finished steps."""
        state = self.checkpoints.restore(self._variables())
        if state:
            self.ledger = CostLedger(**state["ledger"])
            self.bad_records.seen, self.bad_records.bad = map(state["records"].get, ("seen", "bad"))
            return state["step"]
        model, config = self.model, self.config
        if config.model.init:
            restore.start_from_init(config, model.learner)
            model.optimizer.restart_averages(model.learner.trainable_variables)
        restore.require_something_learnable(config, model.learner, model.reference, self.cache)
        return 0

    def _batches(self) -> Iterator:
        """Per-replica super-batches from the current step on, read again after a read error."""
        if self.runtime.steps_in_graph:
            return self._batches_from(self.step)
        return resilient_steps(
            self._batches_from, self.step, self.inputs.manifest, report=logging.warning
        )

    def _batches_from(self, step: int) -> Iterator:
        config, data = self.config, self.config.data

        def per_host(host: int, n_hosts: int, replicas: int) -> tf.data.Dataset:
            return super_batches(
                self.inputs.manifest, self.inputs.tokenizer,
                super_batch=config.selection.super_batch, image_size=data.image_size,
                seed=config.seed, start_step=step, n_lanes=data.n_lanes, input_pipeline_id=host,
                num_input_pipelines=n_hosts, replicas_per_pipeline=replicas, shuffle=data.shuffle,
                prefilter=data.prefilter, reference_cache=self.cache, image_cache=self.image_cache,
                pixels=self.inputs.pixels, shared=self.shared_input,
            )  # fmt: skip

        return iter(self.runtime.distribute(per_host))

    def _advance(self, n_steps: int) -> None:
        """Begins the next steps, and while they run reads what those before them did.

        What they do themselves is read at once only where something needs to know it: before
        another step begins none may be able to end the run.
        """
        plan = self.schedule.plan(self.step)
        waiting = self.pending.n_steps if self.pending else 0
        if self.step_log.could_end(waiting) or not self.host_loop.is_compiled(plan):
            self._settle()
        if self.pending is None:
            self.step_log.start_clock()
        with self.profiler.around(self.step, n_steps):
            result = self.host_loop.run(plan, n_steps, self.outputs.note)
            if self.profiler.is_tracing:
                result.read()  # a trace ends when the device has done its steps
        if result.compiled:
            self.step_log.part_seconds[plan] = self.host_loop.part_seconds(plan, result)
        before, self.step = self.pending, self.step + n_steps
        is_due = any(self.step % every == 0 for every in self.cadences)
        is_read = result.compiled or is_due or self.step >= self.config.total_steps
        self.pending = Pending(self.step, n_steps, plan, result if is_read else result.light())
        self.on_steps(self.step, result)
        if before:
            self._write(before)
        if is_read:
            self._settle()

    def _settle(self) -> None:
        """Reads what the pending steps did, if there are any."""
        pending, self.pending = self.pending, None
        if pending:
            self._write(pending)

    def _write(self, pending: Pending) -> None:
        """Writes down what steps did; too many bad records end the run, saved."""
        self.step_log.write(pending)
        try:
            self.bad_records.check(self.inputs.manifest)
        except UserError:
            self._save()
            raise

    def _stopping(self, interrupt: Interrupt) -> bool:
        minutes = self.config.checkpoint.every_minutes
        is_due = minutes and time.monotonic() - self.saved_at >= 60 * minutes
        # By the chief's clock, and once: all workers must save the same steps.
        asks = bool(is_due and self.runtime.is_chief and not self.has_asked)
        self.has_asked |= asks
        # What one worker alone knows, all are told by the number that they exchange anyway.
        code = interrupt.signal_number + FORGOT * bool(self.evaluations.stopped)
        told = self.runtime.peers.of_all_before(code + SAVE * asks)
        self.save_is_due = any(code >= SAVE for code in told)
        codes = [code % SAVE for code in told]
        if signal_number := max(code % FORGOT for code in codes):
            interrupt.request(signal_number)
        if max(codes) >= FORGOT and not self.evaluations.stopped:
            self.evaluations.stopped = "a score fell too far, see the first worker's log"
        return self.step_log.is_stuck or any(codes)  # not what this process alone knows

    def _evaluate_if_due(self) -> None:
        if self.evaluations.due(self.step):
            self.checkpoints.wait()
            self.evaluations.run_due(self.step, self.ledger, self.ledger.totals)

    def _save(self) -> None:
        """Saves the whole state, after everything that was written for its steps is on disk."""
        self._settle()
        first = self.outputs.sync(self.step)
        state = {"step": self.step, "ledger": dataclasses.asdict(self.ledger)}
        state["records"] = {"seen": self.bad_records.seen, "bad": self.bad_records.bad}
        self.checkpoints.save_later(self.step, self._variables(), state, first)
        self.saved_at, self.has_asked = time.monotonic(), False

    def _announce(self) -> None:
        s, total = self.config.selection, self.config.total_steps
        if self.step >= total:
            return  # `finished` says so
        if self.step and self.workdir.grown_from:
            self.outputs.note(
                f"Made longer: {self.workdir.grown_from:,} steps before, {total:,} now. From step "
                f"{self.step:,} on the learning rate and the resolutions follow the schedules of "
                f"{total:,} steps."
            )
        ratio = 1 - s.sub_batch / s.super_batch
        self.outputs.note(
            f"{self.config.name}: {s.policy}"
            + (f"/{s.criterion}" if s.policy != "uniform" else "")
            + f", {s.super_batch} -> {s.sub_batch} examples a step (filter ratio {ratio:.2f}), "
            f"{self.inputs.manifest.n_records:,} records, {self.runtime.n_replicas} replica(s), "
            f"steps {self.step:,} to {total:,}"
        )
        for problem in data_problems(self.config, self.inputs.manifest.n_records):
            self.outputs.note(f"WARNING: {problem}")
        if self.calibration:
            self.outputs.note(str(self.calibration))
        if not self.step and self.runtime.is_chief:
            captions = inputs.sample_captions(self.inputs.manifest, self.image_cache)
            n_cut, n = self.inputs.tokenizer.count_cut(captions), len(captions)
            self.outputs.note(inputs.cut_text(n_cut, n, self.inputs.tokenizer.n_tokens))


def run_reading_again(begin: Callable, sleep: Callable[[float], None] = time.sleep) -> int:
    """`Trainer.run` of a new trainer, and of another one after each read error.

    A program of several steps may have been under way, and only a checkpoint is known to be whole:
    `begin` restores the newest. UserError: a step could not be read after all retries.
    """
    failures, furthest, trainer = 0, -1, None
    while True:
        try:
            trainer = begin()
        except UserError:
            # Missing files are wrong input at the start, but after a read error they may come back.
            if not 0 < failures < MAX_RETRIES:
                raise
            failures += 1
        else:
            error = _read_error_of(trainer)
            if not isinstance(error, tf.errors.OpError):
                return error
            failures = 1 if trainer.step > furthest else failures + 1
            furthest = max(furthest, trainer.step)
            if failures > MAX_RETRIES:
                manifest = trainer.inputs.manifest
                raise unreadable(manifest, trainer.step, failures, error) from error
            logging.warning(
                "read error after step %d (%s: %s); attempt %d of %d, from the newest checkpoint",
                trainer.step, type(error).__name__, reason_of(error),
                failures, MAX_RETRIES,
            )  # fmt: skip
        trainer = error = None  # its weights, before those of the next
        sleep(2.0 ** (failures - 1))


def _read_error_of(trainer) -> tf.errors.OpError | int:
    """The read error that ended the trainer, or its exit code."""
    try:
        return trainer.run()
    except tf.errors.OpError as error:
        if not (is_read_error(error) or "IteratorGetNext" in error.message):
            raise
        trainer.outputs.close()
        return error.with_traceback(None)  # its frames hold the trainer
