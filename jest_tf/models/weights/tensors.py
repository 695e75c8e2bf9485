"""Tensors of a file, read one by one when they are asked for. No pickle is ever read."""

import contextlib
import dataclasses
import functools
import math
import os
import struct
import zipfile
from collections.abc import Callable, Sequence

import h5py
import ml_dtypes
import numpy as np
import safetensors

from jest_tf.errors import UserError, explaining

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
FLOATS = tuple(DTYPES.values())
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack")
NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """`shape`, the name of its dtype, and `read()`, which gives it as a numpy array."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    def floats(self) -> np.ndarray:
        return np.asarray(self.read()).astype(np.float32, copy=False)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Tensor":
        """The tensor after a function that keeps the dtype, such as a reshape or an index."""
        blank = function(np.broadcast_to(np.float32(0), self.shape))
        return dataclasses.replace(self, shape=blank.shape, read=lambda: function(self.read()))


Tensors = dict[str, Tensor]


def open_tensors(paths: Sequence[str]) -> Tensors:
    """All tensors of a file or its shards; UserError: a pickle, damage, or a repeated tensor."""
    found: Tensors = {}
    readers = {".safetensors": _safetensors, ".npz": _npz, ".h5": _h5}
    for path in paths:
        refuse_pickle(path)
        reader = readers.get(os.path.splitext(path)[1])
        if reader is None:
            raise UserError(f"{path}: expected one of {', '.join(readers)} (docs/weights.md)")
        with _damage_is_told(path):
            tensors = reader(path)
        if twice := sorted(found.keys() & tensors.keys()):
            raise UserError(f"{path} repeats {twice[0]} and {len(twice) - 1} more of other shards")
        found |= tensors
    return found


def refuse_pickle(path: str) -> None:
    """Raises UserError for a file that only unpickling, that is running it, could open."""
    if path.endswith(PICKLES):
        raise UserError(
            f"{path} is a pickle, and opening one runs whatever it holds. Convert it where you "
            "trust it: in Python, safetensors.torch.save_model(model, 'model.safetensors') (or "
            "model.save_pretrained(DIR) of transformers); then import the .safetensors file."
        )


def _damage_is_told(path: str) -> contextlib.AbstractContextManager:
    # zipfile, safetensors, h5py and numpy raise many types.
    text = f"{path} cannot be read: {{error}}. The file is cut or damaged: fetch it again."
    return explaining(Exception, text)


def _safetensors(path: str) -> Tensors:
    file = safetensors.safe_open(path, framework="numpy")
    found = {}
    for name in file.keys():  # noqa: SIM118 - not a dict
        part = file.get_slice(name)
        dtype = part.get_dtype()
        read = functools.partial(file.get_tensor, name)
        found[name] = Tensor(tuple(part.get_shape()), DTYPES.get(dtype, dtype), read)
    return found


def _npz(path: str) -> Tensors:
    found = {}
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} fails its checksum")
        for info in archive.infolist():
            with archive.open(info) as stream:
                version = np.lib.format.read_magic(stream)
                shape, is_fortran, dtype = NPY_HEADERS[version](stream)
                begin = stream.tell()
            if dtype.hasobject:
                raise UserError(f"{path}: {info.filename} is pickled, and no pickle is read")
            is_bfloat16 = dtype.str.endswith("V2")
            read = functools.partial(_read_npy, path, info.filename, is_bfloat16)
            if info.compress_type == zipfile.ZIP_STORED and not is_fortran and math.prod(shape):
                # Mapped, so that a block of a stacked array is read without the others.
                kind = ml_dtypes.bfloat16 if is_bfloat16 else dtype
                with open(path, "rb") as file:  # behind the local header, name and extra field
                    file.seek(info.header_offset + 26)
                    at = begin + info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
                read = functools.partial(np.memmap, path, kind, "r", at, shape)
            name = info.filename.removesuffix(".npy")
            found[name] = Tensor(shape, "bfloat16" if is_bfloat16 else dtype.name, read)
    return found


def _read_npy(path: str, member: str, is_bfloat16: bool) -> np.ndarray:
    with _damage_is_told(path), zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    return array.view(ml_dtypes.bfloat16) if is_bfloat16 else array


def _h5(path: str) -> Tensors:
    file = h5py.File(path, "r")
    found: Tensors = {}

    def visit(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = Tensor(item.shape, item.dtype.name, lambda: item[()])

    file.visititems(visit)
    return found
