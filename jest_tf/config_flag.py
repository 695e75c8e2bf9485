"""The flag `--config`: loads a config file, takes overrides, and explains what is wrong.

`--config=emoji` names a shipped config (`jest_tf/configs/emoji.py`), `--config=my/file.py` a file.
`--config.evals.NAME=KIND[@STEPS]:DATA` adds an evaluation, e.g. `retrieval@500:data/coco`.
"""

import functools
import importlib.util
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from jest_tf.config import evaluation, flat, nearest
from jest_tf.errors import UserError

NAME = "config"
SHIPPED = pathlib.Path(__file__).parent / "configs"
_EVALUATION = re.compile(rf"--{NAME}\.evals\.(\w+)=(\w+)(?:@(\d+))?:(.+)")


@functools.cache  # several commands may be in one process
def define() -> flags.FlagHolder:
    """Defines `--config=FILE[:ARGUMENTS]` and its overrides `--config.x.y=value`."""
    return config_flags.DEFINE_config_file(
        NAME,
        None,
        "A shipped config or a file, with its arguments: emoji:quick, my/config.py. Override "
        "fields with --config.x.y=value; --config.evals.NAME=KIND[@STEPS]:DATA adds an evaluation.",
        lock_config=True,
    )


def parse(argv: Sequence[str]) -> list[str]:
    """Parses all flags, as `absl.app` does; UserError: unknown, a wrong value, or no config."""
    argv, added = _with_paths(argv), []
    for word in argv:
        if match := _EVALUATION.fullmatch(word):
            added.append(match)
        elif re.match(rf"--{NAME}\.evals\.\w+=", word):
            raise UserError(
                f"{word} adds an evaluation: expected KIND[@STEPS]:DATA, e.g. "
                f"{word.partition('=')[0]}=retrieval@500:data/coco."
            )
    argv = [word for word in argv if not _EVALUATION.fullmatch(word)]
    sys.argv[:] = argv  # ml_collections looks for overrides there
    try:
        rest = flags.FLAGS(argv)
        config = flags.FLAGS[NAME].value if added and NAME in flags.FLAGS else None
        if isinstance(config, ConfigDict):  # else `value_of` says what is wrong with it
            with config.evals.unlocked():
                for name, kind, every, data in (match.groups() for match in added):
                    config.evals[name] = evaluation(kind, data, int(every or 0))
        return rest
    except flags.UnrecognizedFlagError as error:
        raise UserError(_explain_unknown(error.flagname)) from error
    except (AttributeError, KeyError) as error:  # ml_collections: a field that does not exist
        told = _explain_file(error) or _explain_missing_field(argv, str(error))
        raise UserError(told) from error
    except (flags.Error, OSError) as error:  # OSError: an override of a file that did not load
        chain = [error]
        while earlier := chain[-1].__cause__ or chain[-1].__context__:
            chain.append(earlier)
        told = [e for e in chain if isinstance(e, UserError)]
        text = f"--{NAME} could not be loaded: {type(chain[-1]).__name__}: {chain[-1]}"
        text = str(error) if isinstance(error, flags.Error) else text
        raise (told[-1] if told else UserError(text)) from error
    except Exception as error:
        if told := _explain_file(error):
            raise UserError(told) from error
        raise


def shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.py") if path.stem != "__init__")


def _with_paths(argv: Sequence[str]) -> list[str]:
    """The arguments with the path of a shipped config for its name."""
    argv = list(argv)
    for i, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag not in (f"--{NAME}", f"-{NAME}"):
            continue
        place = i if equals else i + 1
        if not equals:
            value = argv[place] if place < len(argv) else ""
        name, colon, argument = value.partition(":")
        if name in shipped():
            path = f"{SHIPPED / name}.py{colon}{argument}"
            argv[place] = f"{flag}={path}" if equals else path
        elif name and not pathlib.Path(name).is_file():
            hint = nearest(pathlib.Path(name).stem, shipped())
            raise UserError(
                f"--{NAME}={value}: there is no file {name}{hint}. Give a shipped config "
                f"({', '.join(shipped())}) or the path of a file."
            )
    return argv


def value_of(flag: flags.FlagHolder) -> ConfigDict:
    """The loaded config. UserError: the flag was not given, or its file failed to load."""
    if flag.value is None:
        raise UserError(
            f"--config is missing. Give a shipped config ({', '.join(shipped())}) or a file."
        )
    if not isinstance(flag.value, ConfigDict):
        raise UserError(f"--config could not be loaded: {_load_error(flag.value)}")
    return flag.value


def load(path: str | pathlib.Path, argument: str = "") -> ConfigDict:
    """What `--config=PATH:ARGUMENT` gives; UserError: no such file, or an unknown argument."""
    if not pathlib.Path(path).exists():
        raise UserError(f"{path} is not here: run this from the project's folder.")
    spec = importlib.util.spec_from_file_location(f"config_{pathlib.Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def _explain_unknown(name: str) -> str:
    field = name.removeprefix(f"{NAME}.")
    if field == name or NAME not in flags.FLAGS:
        return f"unknown flag --{name}{nearest(name, list(flags.FLAGS))}."
    config = flags.FLAGS[NAME].value
    if not isinstance(config, ConfigDict):
        return f"--{name}: --config could not be loaded: {_load_error(config)}"
    keys = list(flat(config))
    return f"unknown config field --{name}{nearest(field, keys)}. See jest_tf/config.py for all."


def _explain_file(error: Exception) -> str:
    """What is wrong in the config file itself, or nothing where the error came later."""
    frames = traceback.extract_tb(error.__traceback__)
    # The parser of ml_collections runs the file; it looks at overrides afterwards.
    if not any(f.name == "parse" and f.filename.endswith("config_flags.py") for f in frames):
        return ""
    at = [f"{f.filename}:{f.lineno}: " for f in frames if f.name in ("<module>", "get_config")]
    return (
        f"--{NAME} could not be loaded: {''.join(at[-1:])}{type(error).__name__}: {error}. "
        f"Expected Python with a function get_config(); shipped ones are in {SHIPPED}."
    )


def _explain_missing_field(argv: Sequence[str], error: str) -> str:
    words = re.findall(r"\w+", error)
    given = [a.split("=")[0] for a in argv if a.startswith(f"--{NAME}.")]
    guilty = [g for g in given if words and words[0] in g.split(".")]
    hint = re.search(r"Did you mean .*\?", error)
    return f"unknown config field {' '.join(guilty)}. {hint[0] if hint else ''}".rstrip()


def _load_error(value: object) -> object:
    if value is None:
        return "no file was given."
    try:
        value.any_field  # noqa: B018  the loader keeps its error until a field is read
    except OSError as error:
        return error.__cause__ or error
    return "get_config() returned no ConfigDict."


def refuse_extra(argv: Sequence[str]) -> None:
    """Raises a UserError if words are left that are no flags (often a missing `--` or `=`)."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
