"""How every entry point starts: flags first, TensorFlow later, user errors without a traceback.

Importing this module silences TensorFlow's C++ log, unless the user has set its level: import it
before TensorFlow. What goes wrong still arrives as a Python exception; what is lost are lines such
as "failed call to cuInit" on every machine without a GPU. It imports no TensorFlow itself: a wrong
flag must be refused in a second, and importing TensorFlow takes several.
"""

import contextlib
import ctypes
import datetime
import errno
import hashlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Two programs on one GPU, such as a training and `evaluate --follow`: each takes what it needs.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import filelock  # noqa: E402
from absl import app, flags, logging  # noqa: E402

from jest_tf import config_flag  # noqa: E402
from jest_tf.errors import UserError  # noqa: E402

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
# Of an error of files that the user can mend: rights, space, a file where a folder should be.
OF_THE_DISK = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST,
)  # fmt: skip
TEXT_FLAGS = ("--text", "--separator", "--keep")


def own_flags() -> tuple[flags.FlagValues, Callable[..., flags.FlagHolder]]:
    """A container of flags and `flag(kind, name, default, text, …)`, which defines one in it.

    With containers of their own, entry points that share the name of a flag fit into one process.
    """
    container = flags.FlagValues()

    def flag(kind: str, name: str, default: object, text: str, **options) -> flags.FlagHolder:
        define = getattr(flags, f"DEFINE_{kind}")
        return define(name=name, default=default, help=text, flag_values=container, **options)

    return container, flag


def data_flags(
    flag: Callable[..., flags.FlagHolder], where: str = "Where TFDS keeps its sets."
) -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """Defines --data_dir and --tfds_module; `flag` is that of `own_flags`."""
    text = "Python module that registers a TFDS builder of your own."
    return flag("string", "data_dir", None, where), flag("string", "tfds_module", "", text)


def made_by(command: str) -> str:
    """When and by which words this process makes a page, for its foot."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{now}, by {shlex.join(['python', '-m', command, *sys.argv[1:]])}"


def tpu_flag(flag: Callable[..., flags.FlagHolder]) -> flags.FlagHolder:
    """Defines --tpu of a command that embeds; `flag` is that of `own_flags`."""
    text = "Embed on a TPU: `local`, or the name of a slice. By default on all GPUs, or the CPU."
    return flag("string", "tpu", "", text)


def run(
    main: Callable[[Sequence[str]], int | None],
    flag_values: flags.FlagValues | None = None,
    kept: str = "no unfinished result took the place of an old one",
) -> None:
    """Parses the flags, calls `main(argv)` and exits with what it returns (None: 0).

    A UserError, also one of the flags, is printed to stderr as `error: …`; the exit code is then 2.
    main: gets the program's name and what the flags left over. flag_values: of `own_flags`, or None
    for absl's. kept: printed on Ctrl-C: what is left behind and how to go on.
    """
    if flag_values is not None:
        flags.FLAGS.append_flag_values(flag_values)
        for name in flag_values:  # so that --help lists them
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag_values[name])

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # TFDS tells of every file that it opens
        if flag_values is not None:
            # The flags were parsed as absl's global ones; the values are shared, the mark is not.
            flag_values.mark_as_parsed()
        try:
            out = flag_values.out if flag_values and "out" in flag_values else None
            _require_place(out)
            with only_writer(out):
                sys.exit(main(argv))
        except UserError as error:
            _exit(error)
        except KeyboardInterrupt:
            print(f"\ninterrupted: {kept}", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except Exception as error:
            if not (refused := _refused_by_the_disk(error)):
                raise
            text = ". Free disk space, or name a place that can be read and written."
            _exit(UserError(refused + text))

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            return config_flag.parse(expand_paths(argv))
        except UserError as error:
            _exit(error)

    # A name of a file may hold bytes that are no text, and a terminal may not know every letter.
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    bound_arenas()
    app.run(guarded, flags_parser=parse)


def _require_place(out: str | None) -> None:
    """UserError: a local path lies below a file, which would be found after the work."""
    if not out or "://" in out:
        return
    place = os.path.dirname(os.path.abspath(out))
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise UserError(f"--out={out}: {place} is a file and no folder. Name another.")


@contextlib.contextmanager
def only_writer(out: str | None) -> Iterator[None]:
    """Refuses a second command of this user and machine that writes to the same local path.

    Two of them would write each other's unfinished files. The lock is a file apart from the output,
    and ends with the process, however that ends.
    """
    if not out or "://" in out:
        yield
        return
    name = hashlib.sha256(os.path.realpath(out).encode()).hexdigest()[:32]
    folder = os.path.join(tempfile.gettempdir(), f"jest_tf-{os.getuid()}")
    os.makedirs(folder, exist_ok=True)
    lock = filelock.FileLock(os.path.join(folder, f"{name}.lock"), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"--out={out}: another command is writing there. Let it end, or stop it and give this "
            "command again; or take another --out."
        ) from None
    try:
        yield
    finally:
        lock.release()


def expand_paths(argv: Sequence[str]) -> list[str]:
    """The words with `~` and `$VARIABLES` filled in: a shell leaves them in `--out=~/x`.

    Any flag may name a path, or several with commas between; only TEXT_FLAGS never do. UserError: a
    path of Windows, which would be taken for the name of a file.
    """
    expanded = list(argv[:1])
    for before, word in zip(argv, argv[1:], strict=False):
        name, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        if (name or before) not in TEXT_FLAGS:
            if re.match(r"[A-Za-z]:[\\/]", value):
                raise UserError(
                    f"{word}: a path of Windows. Here / separates folders and no drive has a "
                    "letter; in WSL, C:\\photos is /mnt/c/photos."
                )
            value = ",".join(
                os.path.expanduser(part) for part in os.path.expandvars(value).split(",")
            )
        expanded.append(name + equals + value)
    return expanded


def _refused_by_the_disk(error: Exception) -> str:
    """`PATH: reason`, where Python or TensorFlow (`PATH; reason`, `PATH is …`) tells of one."""
    if isinstance(error, OSError):
        reason = os.strerror(error.errno) if error.errno in OF_THE_DISK else ""
        return f"{error.filename}: {reason}" if error.filename and reason else ""
    reasons = "|".join(map(os.strerror, OF_THE_DISK))
    message = str(getattr(error, "message", ""))
    found = re.fullmatch(rf"(.+?)(?:;| is) ({reasons})", message, re.DOTALL | re.IGNORECASE)
    return f"{found[1]}: {found[2].capitalize()}" if found else ""


def _exit(error: UserError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)


_M_ARENA_MAX = -8  # glibc's malloc.h


def bound_arenas() -> None:
    """At most one of glibc's malloc arenas per core, and two at least; before threads allocate.

    By default there may be eight per core. A step's buffers are taken by ever other threads, and
    each arena keeps what it once needed: a run of small steps then grew by some 20 kB a step
    (`benchmarks.faults --part=soak`). Does nothing where the variable MALLOC_ARENA_MAX says how
    many there may be, or where the C library is another.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, max(2, os.cpu_count() or 1))
