"""Folders that appear whole or not at all, and variables as .safetensors files.

A folder is written beside its place and renamed into it. The layout of a file is that of
https://github.com/huggingface/safetensors: 8 bytes of header length, a JSON header, and the bytes
of each tensor. The library itself would write a copy of all tensors, and a checkpoint is hashed
while it is written.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.files import sync

STAGING_PREFIX = ".staging-"
Digest = dict[str, Any]  # sha256 (hex) and n_bytes of a file


class HashingWriter:
    """A write-only stream, strictly forwards, that knows the digest of its bytes."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._sha256, self._n_bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self._sha256.update(data)
        self._stream.write(data)
        self._n_bytes += len(data)

    def digest(self) -> Digest:
        return {"sha256": self._sha256.hexdigest(), "n_bytes": self._n_bytes}


def digest(path: Path) -> Digest:
    """What `HashingWriter` says of the bytes that lie in a file."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": sha256, "n_bytes": file.tell()}


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[HashingWriter]:
    """Opens a new file for writing; on leaving the block the bytes are on the disk."""
    with open(path, "xb") as file:
        yield HashingWriter(file)
        file.flush()
        os.fsync(file.fileno())


def stage(folder: Path, token: str = "") -> Path:
    """Makes a place to write the files of `folder` in.

    token: the same for several writers that share the place; without, it is new.
    """
    staged = _beside(folder, token or secrets.token_hex(4))
    staged.mkdir(parents=True, exist_ok=bool(token))
    return staged


def publish(staged: Path, folder: Path) -> None:
    """Makes the staged files visible as `folder`, all or nothing, replacing what was there."""
    sync(staged)
    if folder.is_dir():
        remove(folder)
    os.rename(staged, folder)
    sync(folder.parent)


def remove(folder: Path) -> None:
    """Removes `folder`; a reader never takes a half-removed one for a finished save."""
    hidden = _beside(folder, secrets.token_hex(4))
    os.rename(folder, hidden)
    shutil.rmtree(hidden)


def sweep(root: Path, token: str = "") -> None:
    """Removes the stages that an interrupted writer left, not those of writers with this token.

    Only the writer may call this, the first of several.
    """
    for staged in root.glob(f"{STAGING_PREFIX}*"):
        if not (token and staged.name.endswith(f"-{token}")):
            shutil.rmtree(staged)


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{STAGING_PREFIX}{folder.name}-{ending}")


Variable = Any  # tf.Variable, a distributed tf.Variable, or keras.Variable
# dtype -> its name in a .safetensors file.
DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16",
    "uint32": "U32", "int32": "I32", "uint64": "U64", "int64": "I64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip


def describe(value: Variable | np.ndarray) -> dict[str, Any]:
    """Shape and dtype of a variable or an array, as JSON."""
    if not isinstance(value, np.ndarray):
        value = tf_variable(value)
    return {"shape": list(value.shape), "dtype": value.dtype.name}


def values_of(variables: Mapping[str, Variable]) -> dict[str, np.ndarray]:
    """What the variables hold now, on the host, in name order.

    Later updates do not change it: TensorFlow gives a variable another buffer where its value is
    still read. UserError: a variable that is no number, or that differs between replicas by design.
    """
    values = {}
    for name in sorted(variables):
        variable = tf_variable(variables[name])
        if variable.dtype.name not in DTYPES:
            raise UserError(
                f"Variable {name} has dtype {variable.dtype.name}; only numbers are saved."
            )
        # Its copies differ by design, and a single number cannot bring them back.
        if getattr(variable, "synchronization", None) == tf.VariableSynchronization.ON_READ:
            raise UserError(
                f"Variable {name} has a different value on each replica (synchronization=ON_READ) "
                "and cannot be saved. Keep such sums out of the checkpoint."
            )
        values[name] = np.asarray(tf.convert_to_tensor(variable).__array__())  # without a copy
    return values


def write_tensors(file: IO[bytes], values: Mapping[str, np.ndarray]) -> None:
    header, end = {}, 0
    for name, value in values.items():
        of_one = describe(value)
        begin, end = end, end + n_bytes(**of_one)
        header[name] = {
            "dtype": DTYPES[of_one["dtype"]], "shape": of_one["shape"],
            "data_offsets": [begin, end],
        }  # fmt: skip
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for value in values.values():
        file.write(value.tobytes())


def read_tensors(
    path: Path, stored: Mapping[str, dict], give: Callable[[str, np.ndarray], None]
) -> None:
    """Calls `give(name, value)` for each tensor in `stored` (name -> description), in name order.

    ValueError, SafetensorError: the file holds other tensors than these descriptions say.
    """
    with safetensors.safe_open(path, framework="numpy") as file:
        for name in sorted(stored):
            value = file.get_tensor(name)
            if describe(value) != stored[name]:
                raise ValueError(f"{name}: {describe(value)}, expected {stored[name]}")
            give(name, value)


def read_npz(
    path: Path, stored: Mapping[str, dict], give: Callable[[str, np.ndarray], None]
) -> None:
    """`read_tensors` of the .npz that earlier versions wrote: one .npy member per variable.

    Headers are compared before anything is read: a hostile one can ask for any memory.
    """
    with zipfile.ZipFile(path) as archive:
        for name in sorted(stored):
            shape, dtype = stored[name]["shape"], stored[name]["dtype"]
            with archive.open(f"{name}.npy") as member:
                if np.lib.format.read_magic(member) != (1, 0):
                    raise ValueError(f"{name}: another version of .npy")
                found, is_fortran, kept_as = np.lib.format.read_array_header_1_0(member)
                width = n_bytes([], dtype)
                if list(found) != shape or is_fortran or kept_as.itemsize != width:
                    raise ValueError(f"{name}: {kept_as} {found}, expected {dtype} {shape}")
                if kept_as.hasobject:
                    raise ValueError(f"{name} is pickled")
                data = member.read(n_bytes(shape, dtype))
            give(name, np.frombuffer(data, tf.as_dtype(dtype).as_numpy_dtype).reshape(shape))


def tf_variable(variable: Variable) -> tf.Variable:
    # A keras.Variable holds its tf.Variable in `.value`; on a tf.Variable that is a method.
    return variable if isinstance(variable, tf.Variable) else variable.value


def n_bytes(shape: list[int], dtype: str) -> int:
    """Bytes of a tensor that is so described."""
    return math.prod(shape) * tf.as_dtype(dtype).size
