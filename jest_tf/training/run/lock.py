"""One writer per workdir, also when the last one was killed or ran on another machine.

The kernel's flock decides between processes of one machine and frees itself when its holder dies.
File systems that are shared by machines often keep flock to one of them, so the holder also writes
who it is and touches the file all the time; a second machine watches whether that goes on. It looks
for any change and never at the clock, which may run backwards or differ between machines.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import logging

from jest_tf.errors import UserError
from jest_tf.json_text import parse_json

BEAT_SECONDS = 15.0
# Above the 60 s for which an NFS client may show old attributes.
WATCH_SECONDS = 90.0
FLOCK_UNAVAILABLE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class WorkdirLock:
    """Held from construction until `release` or the death of the process.

    Args:
      path: the lock file; made when missing, and never removed.
      watch_seconds, sleep: how long, and how, to watch another machine's lock for signs of life.
    Raises:
      UserError: another run holds the lock; names its machine, process and start.
      OSError: the file cannot be opened for writing.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        watch_seconds: float = WATCH_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._path = Path(path)
        self._stop = threading.Event()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._acquire(watch_seconds, sleep)
        except BaseException:
            os.close(self._file)
            raise
        self._write({"host": socket.gethostname()} | process_identity(os.getpid()))
        self._beat = threading.Thread(target=self._keep_beating, daemon=True, name="workdir-lock")
        self._beat.start()

    def release(self) -> None:
        """Let the next run in. Safe to call twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._beat.join()
        with contextlib.suppress(OSError):
            self._write({})
        os.close(self._file)

    def _acquire(self, watch_seconds: float, sleep: Callable[[float], None]) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            has_flock = True
        except BlockingIOError:
            raise self._refusal(self._read()) from None
        except OSError as error:
            if error.errno not in FLOCK_UNAVAILABLE:
                raise
            has_flock = False
        holder = self._read()
        if not holder:
            return
        if holder.get("host") == socket.gethostname():
            if not has_flock and _is_alive(holder):
                raise self._refusal(holder)
        elif self._is_touched_within(watch_seconds, sleep):
            raise self._refusal(holder)
        logging.warning("Lock %s was left by a run that ended without cleaning up.", self._path)

    def _is_touched_within(self, seconds: float, sleep: Callable[[float], None]) -> bool:
        logging.warning(
            "Workdir was last used on another machine; watching %s for %g s.", self._path, seconds
        )
        before = os.stat(self._path).st_mtime_ns
        n_looks = max(1, round(seconds / BEAT_SECONDS))
        for _ in range(n_looks):
            sleep(seconds / n_looks)
            if os.stat(self._path).st_mtime_ns != before:
                return True
        return False

    def _refusal(self, holder: dict[str, Any]) -> UserError:
        who = (
            f"process {holder.get('pid')} on {holder.get('host')}, started {holder.get('started')}"
            if holder
            else "a process that has just started"
        )
        return UserError(
            f"workdir {self._path.parent} is in use by {who}. Stop that run first, "
            "or take another --workdir."
        )

    def _read(self) -> dict[str, Any]:
        try:
            holder = parse_json(os.pread(self._file, 4096, 0) or b"{}")
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}

    def _write(self, holder: dict[str, Any]) -> None:
        data = json.dumps(holder).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, data, 0)
        os.fsync(self._file)

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            # A full disk or a lost mount is the run's own concern; it will fail on its next write.
            with contextlib.suppress(OSError):
                os.utime(self._file)


def process_identity(pid: int) -> dict[str, Any]:
    """What tells this process from a later one with the same number: boot and start tick."""
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"pid": pid, "started": started, "start_tick": _start_tick(pid)}


def _is_alive(holder: dict[str, Any]) -> bool:
    start_tick = _start_tick(holder.get("pid", -1))
    return start_tick is not None and start_tick == holder.get("start_tick")


def _start_tick(pid: int) -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The command name may hold spaces and brackets; the fields after it do not.
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return f"{boot}:{fields[19]}"
