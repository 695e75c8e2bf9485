"""Checkpoints: everything a run needs to continue, as one folder that is whole or not there.

    checkpoints/step-00000100/
        variables.safetensors  the variables, in name order
        state.json             the caller's JSON state, and the dtype and shape of every variable
        manifest.json          step, SHA-256 and length of the files above; written last

More than 5 GB of variables lie in several files with an index, see `shards`.

Why not tf.train.Checkpoint: here we can compare names, shapes and dtypes before assigning anything.
A variable that is missing, left over or of another dtype is an error with its name. Every byte is
covered by a checksum that is verified BEFORE the first variable is assigned. Variables are restored
one at a time. The same values give the same bytes, and bits are kept exactly.
Earlier versions wrote variables.npz, which is still read.

Distributed variables: a save reads the primary copy, a restore assigns to all copies. Of several
worker processes the chief saves; where there are several files, each writes its share of them. All
restore, whatever their number.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import logging

from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json, step_name
from jest_tf.training.run import shards, storage
from jest_tf.training.run.shards import ALONE, INDEX, NOTE, VARIABLES, Group, Share
from jest_tf.training.run.storage import Digest, Variable, describe, new_file, tf_variable

MANIFEST = "manifest.json"
STATE = "state.json"
NPZ = "variables.npz"
# Format -> the file that every checkpoint of it holds, beside the state.
FORMATS = {1: NPZ, 2: VARIABLES, 3: INDEX}
FOLDER_NAME = re.compile(r"step-(\d{8,})")
N_DIFFERENCES_SHOWN = 8


class CheckpointNotSaved(UserError):
    """A save failed (disk full, read-only, …). Earlier checkpoints are untouched."""


class CheckpointNotFound(UserError):
    """The step asked for has no finished checkpoint (never saved, or dropped by `keep`)."""


class CheckpointDamaged(UserError):
    """A checkpoint's files do not match its manifest."""


class CheckpointMismatch(UserError):
    """A sound checkpoint holds other variables than the model that is to be restored."""


class Checkpointer:
    """Saves and restores the checkpoints of one run in a folder.

    keep: how many of the newest checkpoints stay. The one just saved always does. group: the worker
    processes that save together, each with a Checkpointer of its own; they save the same steps.
    damaged: step -> what is wrong with it, of finished checkpoints that `restore` passed over.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 3, group: Group = ALONE):
        if keep < 1:
            raise UserError(f"checkpoint keep = {keep}: expected at least 1.")
        self._root = Path(directory)
        self._keep = keep
        self._group, self._last_step = group, -1
        self._patience = shards.PATIENCE
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future | None = None
        self.damaged: dict[int, str] = {}

    def save(self, step: int, variables: Mapping[str, Variable], state: Mapping[str, Any]) -> None:
        """Save one checkpoint, read it back to check it, then drop what `keep` does not cover.

        A step that is already saved and sound is left as it is. variables: unique name → variable
        of a numeric or bool dtype. state: JSON-serialisable; floats come back exactly.
        CheckpointNotSaved: the disk refused; what was saved before is intact.
        """
        self.wait()
        self._save(step, Share.of(variables, self._group), state)

    def save_later(
        self,
        step: int,
        variables: Mapping[str, Variable],
        state: Mapping[str, Any],
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """`save` in a thread, after `first()`; the variables may change meanwhile.

        Waits for the save before. `with checkpointer:` waits for the last one.
        """
        self.wait()
        share = Share.of(variables, self._group)

        def write() -> None:
            first()
            self._save(step, share, state)

        self._saving = self._thread.submit(write)

    def wait(self) -> None:
        """Returns when `save_later` has saved, or raises what it would have raised."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            self.wait()
            return
        self._patience = shards.SHORT_PATIENCE  # another worker may be gone
        try:
            self.wait()
        except CheckpointNotSaved as error:  # told, but what ends the run is something else
            logging.error("%s", error)

    def _save(self, step: int, share: Share, state: Mapping[str, Any]) -> None:
        if self._group.rank:
            self._save_share(step, share)
            return
        if step in self.steps() and not self._damage(step, self._folder(step)):
            logging.info("Checkpoint of step %d is already saved.", step)
            self._drop_old(step)
            return
        try:
            storage.sweep(self._root, self._group.token)
            staged = self._write(step, share, state)
            damage = self._damage(step, staged)
            if not damage:
                storage.publish(staged, self._folder(step))
        except OSError as error:
            damage = str(error)
        if damage:
            with contextlib.suppress(OSError):
                storage.sweep(self._root)
            raise CheckpointNotSaved(
                f"Checkpoint of step {step} was not saved in {self._root}: {damage}\n"
                f"Steps that are saved: {self.steps() or 'none'}. Free disk space or fix the "
                "permissions, then rerun the same command; it continues from the newest of them."
            )
        self._drop_old(step)

    def restore(
        self, variables: Mapping[str, Variable], step: int | None = None, only: str = ""
    ) -> dict[str, Any] | None:
        """Assign a checkpoint's values to `variables`, bit for bit; its state, None if none is
        there.

        Nothing is assigned unless the checksums hold and names, shapes and dtypes match. step:
        None: the newest sound one; damaged ones are logged and listed in `self.damaged`. only:
        compare and restore the names that begin so, e.g. "learner/", without the optimizer.
        CheckpointNotFound, CheckpointDamaged, CheckpointMismatch (all UserError).
        """
        if step is None:
            step = self.newest_sound_step()
            if step is None:
                return None
        elif step not in self.steps():
            raise CheckpointNotFound(
                f"{self._root} has no checkpoint of step {step}; it has {self.steps() or 'none'}."
            )
        elif reason := self._damage(step, self._folder(step)):
            raise CheckpointDamaged(
                f"Checkpoint of step {step} in {self._root} is damaged: {reason}. "
                "Take another step, or none, to restore the newest sound one."
            )
        folder = self._folder(step)
        text = f"Checkpoint of step {step} in {self._root} fits its manifest but was not written "
        text += "by this program: {kind}: {error}. Take another one."
        # numpy, zipfile, safetensors and json raise many types for what was written by others.
        with explaining(Exception, text, str, CheckpointDamaged):
            content, manifest = (
                parse_json((folder / name).read_bytes()) for name in (STATE, MANIFEST)
            )
            state = dict(content["state"])
            stored = {n: v for n, v in content["variables"].items() if n.startswith(only)}
            self._check_matches(step, variables, stored)
            name = FORMATS[manifest["format"]]
            read = storage.read_npz if name == NPZ else storage.read_tensors
            files = shards.by_file(folder, stored) if name == INDEX else {name: stored}
            for name, of_file in files.items():
                read(folder / name, of_file, lambda n, v: tf_variable(variables[n]).assign(v))
        return state

    def steps(self) -> list[int]:
        """Steps with a finished checkpoint (sound or not), in ascending order."""
        folders = self._root.iterdir() if self._root.is_dir() else ()
        finished = (folder.name for folder in folders if os.path.isfile(folder / MANIFEST))
        return sorted(int(match[1]) for match in map(FOLDER_NAME.fullmatch, finished) if match)

    def newest_sound_step(self) -> int | None:
        """The newest step whose checksums hold; None if none was saved; else CheckpointDamaged."""
        steps = self.steps()
        self.damaged = {}
        for step in reversed(steps):
            reason = self._damage(step, self._folder(step))
            if not reason:
                return step
            self.damaged[step] = reason
            logging.error("Checkpoint of step %d is damaged and passed over: %s", step, reason)
        if not steps:
            return None
        listed = "\n".join(f"  step {step}: {why}" for step, why in self.damaged.items())
        raise CheckpointDamaged(
            f"Every checkpoint in {self._root} is damaged:\n{listed}\n"
            "Restore the folder from a copy, or start again in another workdir."
        )

    def follow(
        self,
        after: int = -1,
        poll_seconds: float = 5.0,
        timeout_seconds: float = float("inf"),
        finished: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Iterator[int]:
        """Yield each newly finished step after `after`, in order, for a process that follows a run.

        `restore` raises CheckpointNotFound where the writer dropped one meanwhile: go on. Ends when
        `finished()` and nothing is left, or after `timeout_seconds` without a new checkpoint.
        """
        waited = 0.0
        while True:
            # Asked first: a checkpoint that came before the end must still be seen.
            is_last_look = finished()
            new = [step for step in self.steps() if step > after]
            if new:
                after, waited = new[0], 0.0
                yield after
            elif is_last_look or waited >= timeout_seconds:
                return
            else:
                sleep(poll_seconds)
                waited += poll_seconds

    def _save_share(self, step: int, share: Share) -> None:
        """What a worker process writes that is not the chief, unless the step is saved."""
        if not share.values or step == self._last_step or step in self.steps():
            return
        self._last_step = step
        text = f"The share of worker process {self._group.rank} of the checkpoint of step {step} "
        text += f"was not written to {self._root}: {{error}}"
        with explaining(OSError, text, str, CheckpointNotSaved):
            staged = storage.stage(self._folder(step), self._group.token)
            files = self._write_files(staged, share)
            with new_file(staged / NOTE.format(self._group.rank)) as file:
                file.write(json.dumps(files).encode())

    def _write_files(self, staged: Path, share: Share) -> dict[str, Digest]:
        files = {}
        for name, values in share.values.items():
            with new_file(staged / name) as file:
                storage.write_tensors(file, values)
                files[name] = file.digest()
        return files

    def _write(self, step: int, share: Share, state: Mapping[str, Any]) -> Path:
        staged = storage.stage(self._folder(step), self._group.token)
        files = self._write_files(staged, share)
        for rank in share.others:
            files |= self._wait_for(staged, rank)
        contents = {STATE: {"state": dict(state), "variables": share.described}}
        if share.is_split:
            contents[INDEX] = share.index()
        for name, content in contents.items():
            with new_file(staged / name) as file:
                file.write(json.dumps(content, ensure_ascii=False, indent=1).encode())
                files[name] = file.digest()
        manifest = {
            "format": 3 if share.is_split else 2,
            "step": step,
            "files": dict(sorted(files.items())),
        }
        with new_file(staged / MANIFEST) as file:
            file.write(json.dumps(manifest, indent=1).encode())
        return staged

    def _wait_for(self, staged: Path, rank: int) -> dict[str, Digest]:
        """The files of another worker process, once its note is there, and whole."""
        began = time.monotonic()
        while time.monotonic() - began <= self._patience:
            with contextlib.suppress(OSError, ValueError):
                return parse_json((staged / NOTE.format(rank)).read_bytes())
            time.sleep(shards.POLL)
        raise TimeoutError(
            f"worker process {rank} did not write its share in {self._patience} s; its log says why"
        )

    def _folder(self, step: int) -> Path:
        return self._root / step_name(step)

    def _damage(self, step: int, folder: Path) -> str | None:
        """What is wrong with the finished checkpoint of `step` in `folder`, or None."""
        try:
            manifest = parse_json((folder / MANIFEST).read_bytes())
            if manifest["format"] not in FORMATS:
                known = ", ".join(map(str, FORMATS))
                return f"{MANIFEST} has format {manifest['format']}, this version reads {known}"
            known = {FORMATS[manifest["format"]], STATE}
            rest = set(manifest["files"]) - known
            is_known = known < set(manifest["files"]) if manifest["format"] == 3 else not rest
            is_known &= len(rest) + 2 == len(manifest["files"])
            is_known &= all(map(shards.FILE_NAME.fullmatch, rest))
            if manifest["step"] != step or not is_known:
                return f"{MANIFEST} does not describe this step"
            for name, recorded in manifest["files"].items():
                found = storage.digest(folder / name)
                if found != recorded:
                    return (
                        f"{folder.name}/{name} has {found['n_bytes']} bytes, SHA-256 "
                        f"{found['sha256'][:12]}…; the manifest says {recorded['n_bytes']} bytes, "
                        f"{recorded['sha256'][:12]}…"
                    )
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{folder.name} cannot be read: {type(error).__name__}: {error}"
        return None

    def _check_matches(self, step: int, variables: Mapping[str, Variable], stored: dict) -> None:
        expected = {name: describe(variable) for name, variable in variables.items()}
        differences = [
            f"{name}: expected {_text(expected.get(name))}, found {_text(stored.get(name))}"
            for name in sorted(expected | stored)
            if expected.get(name) != stored.get(name)
        ]
        if not differences:
            return
        shown = "\n".join(f"  {line}" for line in differences[:N_DIFFERENCES_SHOWN])
        more = len(differences) - N_DIFFERENCES_SHOWN
        raise CheckpointMismatch(
            f"Checkpoint of step {step} in {self._root} is of another model: "
            f"{len(differences)} of its variables differ.\n{shown}\n"
            + (f"  … and {more} more\n" if more > 0 else "")
            + "Use the config that this checkpoint was saved with."
        )

    def _drop_old(self, just_saved: int) -> None:
        for step in self.steps()[: -self._keep]:
            if step == just_saved:
                continue
            try:
                storage.remove(self._folder(step))
            except OSError as error:
                logging.warning("Old checkpoint of step %d was not removed: %s", step, error)


def _text(description: dict | None) -> str:
    return "no such variable" if description is None else f"{description}"
