"""The folder of one run: opened once at a time, and never by another experiment.

    config.json       the run's config; inputs.json  fingerprints of what it reads
    environment.json  versions, code revision, machine; run.lock, run.owner.json  who writes here
    metrics.jsonl  tensorboard/  checkpoints/  picks/  ledger/  samples/  evaluations/
    projector/  export/

It is a local or mounted folder, because locking, appending and renaming need a file system.

A workdir belongs to a run from its first checkpoint on. Until then nothing is lost if the command
is corrected, so another config may take the folder over.
"""

import contextlib
import dataclasses
import fnmatch
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ml_collections import ConfigDict

from jest_tf.config import ABSENT, completed, differences, read_config, to_store
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json, read_object, write_atomically
from jest_tf.monitoring import environment

# Fields in which a continued run may differ from its start, each with the reason why the learned
# weights and the record of the run stay meaningful. `*` matches any text.
MAY_DIFFER: dict[str, str] = {
    "name": "a label",
    "data.tfds_module": "code that prepares the same records",
    "data.data_dir": "where the same prepared data lie on this machine",
    "strategy.*": "how the same computation is laid out over devices and hosts",
    "checkpoint.*": "how often and how many, not what",
    "log.every_steps": "cadence of scalars; each line carries its step",
    "log.samples_*": "examples to look at do not feed back",
    "log.min_score_share": "when to give up, not what is computed",
    "log.max_refused_steps": "when to give up, not what is computed",
    "profile.*": "traces measure time and change nothing",
    "evals.*": "evaluations read the model and never change it",
}
# Fields that say where something lies. What lies there is compared by fingerprint.
PLACES = ("data.train", "data.vocab", "data.vocab_from", "reference.workdir", "reference.cache")
N_DIFFERENCES_SHOWN = 20
LOCK, OWNER = "run.lock", "run.owner.json"


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths inside a workdir. Use as a context manager, or call `close`, to release the lock.

    grown_from: total_steps of a run that is made longer, or 0.
    """

    path: Path
    config: Mapping[str, Any]
    grown_from: int = 0
    _lock: FileLock | None = dataclasses.field(default=None, repr=False)

    @property
    def is_new(self) -> bool:
        """No checkpoint was saved yet."""
        return not any(self.path.glob("checkpoints/step-*"))

    def claim(self, inputs: Mapping[str, Any]) -> None:
        """Write config, inputs (name -> fingerprint) and environment, once all inputs have opened.

        UserError: a begun run reads other inputs now, or the folder cannot be written.
        """
        if not self.is_new:
            self.compare(inputs)
        with _writing(self.path):
            write_atomically(self.path / "inputs.json", _json_bytes(inputs))
            # The environment of this start; those of earlier ones stay under `earlier`. A record
            # for people: a damaged one must not stop a run.
            file, earlier = self.path / "environment.json", []
            with contextlib.suppress(UserError, TypeError):
                last = read_object(file, "versions")
                earlier = last.pop("earlier", []) + [last]
            write_atomically(file, _json_bytes(environment.collect() | {"earlier": earlier}))
            write_atomically(self.path / "config.json", _json_bytes(to_store(self.config)))

    def compare(self, inputs: Mapping[str, Any]) -> None:
        """Raises UserError if config or inputs are not those that were written here, if any."""
        if not (self.path / "inputs.json").exists():
            return
        _refuse_other_config(self.path, read_config(self.path), self.config)
        before = read_object(self.path / "inputs.json", "fingerprints")
        changed = [name for name in inputs if name in before and before[name] != inputs[name]]
        if changed:
            lines = [f"  {name}: {before[name]} there, {inputs[name]} now" for name in changed]
            raise UserError(
                f"workdir {self.path} belongs to a run that read something else (fingerprints):\n"
                + "\n".join(lines)
                + "\nGive the same data, vocabulary and reference (they may lie elsewhere), or "
                "another --workdir."
            )

    metrics = property(lambda self: self.path / "metrics.jsonl")
    tensorboard = property(lambda self: self.path / "tensorboard")
    checkpoints = property(lambda self: self.path / "checkpoints")
    picks = property(lambda self: self.path / "picks")
    ledger = property(lambda self: self.path / "ledger")
    samples = property(lambda self: self.path / "samples")
    evaluations = property(lambda self: self.path / "evaluations")
    export = property(lambda self: self.path / "export")

    def close(self) -> None:
        if self._lock and self._lock.is_locked:
            (self.path / OWNER).unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> "Workdir":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_workdir(
    path: str | os.PathLike,
    config: Mapping[str, Any],
    *,
    is_writer: bool = True,
) -> Workdir:
    """Lock the workdir of a run and compare its config; `Workdir.claim` writes it.

    is_writer: the one process that makes the folder and takes the lock; other workers compare.
    UserError: not a folder, no permission, another run is writing here, another config.
    """
    path, config = os.fspath(path), _as_json(config)
    if not path:
        raise UserError("--workdir is empty. Give the folder to write this run in.")
    if "://" in path:
        raise UserError(
            f"--workdir={path}: a workdir is a local or mounted folder (a lock and appended files "
            "need one). Mount the bucket, for example with gcsfuse, and give the mounted path."
        )
    path = Path(os.path.abspath(os.path.expanduser(path)))
    with _writing(path), contextlib.ExitStack() as on_error:
        workdir = Workdir(path, config)
        if is_writer:
            path.mkdir(parents=True, exist_ok=True)
            workdir = dataclasses.replace(workdir, _lock=_locked(path))
            on_error.callback(workdir.close)
        if not workdir.is_new:
            before = read_config(path)
            _refuse_other_config(path, before, config)
            if config["total_steps"] > before["total_steps"]:
                workdir = dataclasses.replace(workdir, grown_from=before["total_steps"])
        on_error.pop_all()
    return workdir


def _writing(path: Path) -> contextlib.AbstractContextManager:
    text = f"workdir {path} cannot be written: {{error}}. Give a folder that this user may create "
    return explaining(OSError, text + "and write files in.")


def stored_config(path: str | os.PathLike) -> ConfigDict:
    """`read_config`, with the defaults of this version where the run knew no such field."""
    return ConfigDict(completed(read_config(path)))


def _refuse_other_config(path: Path, before: Mapping, now: Mapping):
    has_fingerprints = (path / "inputs.json").exists()
    before, now = _as_json(completed(before)), _as_json(completed(now))

    def may(field: str, values: list) -> bool:
        if field == "total_steps" and ABSENT not in values:
            return values[0] < values[1]
        if field in PLACES and has_fingerprints:
            # A reference may lie elsewhere, but not come or go.
            return all(values) or field.startswith("data.")
        return any(fnmatch.fnmatchcase(field, pattern) for pattern in MAY_DIFFER)

    refused = {
        field: values
        for field, values in differences(before, now).items()
        if not may(field, values)
    }
    if not refused:
        return
    lines = [f"  {field}: {old!r} there, {new!r} now" for field, (old, new) in refused.items()]
    if len(lines) > N_DIFFERENCES_SHOWN:
        lines[N_DIFFERENCES_SHOWN:] = [f"  … and {len(lines) - N_DIFFERENCES_SHOWN} more"]
    raise UserError(
        f"workdir {path} belongs to a run of another config; {len(refused)} field(s) differ:\n"
        + "\n".join(lines)
        + "\nTake another --workdir, or the config of that run to continue it."
        + (" total_steps may only grow." if "total_steps" in refused else "")
    )


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    # Through JSON and back, so that a tuple now equals the list that was read from the file.
    return json.loads(json.dumps(config))


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _locked(path: Path) -> FileLock:
    """The lock of a workdir; UserError names the run that holds it."""
    lock, owner = FileLock(path / LOCK, timeout=0), path / OWNER
    try:
        lock.acquire()
    except Timeout:
        who = "a process that has just started"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = parse_json(owner.read_bytes())
            who = f"process {found['pid']} on {found['host']}, started {found['started']}"
        raise UserError(
            f"workdir {path} is in use by {who}. Stop that run first, or take another --workdir."
        ) from None
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": started}
    try:
        write_atomically(owner, json.dumps(me))
    except BaseException:
        lock.release()
        raise
    return lock
