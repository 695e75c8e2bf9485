"""What one chip holds and computes, and how many a topology has. Imports no TensorFlow."""

import dataclasses
import math
import pathlib
import re
import subprocess

from jest_tf.collectives import TILE_VALUES
from jest_tf.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Device:
    """One replica's accelerator; figures of Google Cloud's TPU documentation."""

    name: str
    memory: int  # bytes that a program may use (TPU: as libtpu 0.0.42.1 reports)
    flops: float | None = None  # bfloat16 operations a second at peak
    memory_bandwidth: float | None = None  # bytes a second
    link_bandwidth: float | None = None  # to other chips over all links

    @property
    def tile_values(self) -> int:
        """Similarities that exist at a time on it, in selection and loss."""
        return tile_values(self.memory) if self.name == "gpu" else TILE_VALUES


def _tpu(name: str, gib: float, tflops: float, memory_gbps: float, link_gbits: float) -> Device:
    return Device(name, int(gib * GIB), tflops * 1e12, memory_gbps * 1e9, link_gbits * 1e9 / 8)


TPUS = {
    "v4": _tpu("v4", 30.75, 275, 1228, 2400),
    "v5e": _tpu("v5e", 15.75, 197, 819, 1600),
    "v5p": _tpu("v5p", 95.74, 459, 2765, 4800),
    "v6e": _tpu("v6e", 31.25, 918, 1640, 3584),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: so many chips of a type, one replica each (v4 and v5p chips count as one)."""

    device: Device
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.device.name}:{'x'.join(map(str, self.shape))}"

    @property
    def n_chips(self) -> int:
        return math.prod(self.shape)

    @property
    def n_hosts(self) -> int:
        """TPU VMs: up to 8 chips on one for v5e and v6e, otherwise 4 chips each."""
        on_one_host = 8 if self.device.name in ("v5e", "v6e") else 4
        return 1 if self.n_chips <= on_one_host else self.n_chips // 4


def n_gpus() -> int:
    """NVIDIA GPUs of this machine, by its driver."""
    return len(list(pathlib.Path("/proc/driver/nvidia/gpus").glob("*")))


def gpu_memory() -> int:
    """Bytes of the smallest NVIDIA GPU of this machine, by its driver; 0: it does not say."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return min(int(line) for line in done.stdout.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def tile_values(memory: int) -> int:
    """Float32 similarities that a GPU of so many bytes holds at a time: 256 MiB of 80 GiB.

    A power of two, so that it depends on the model of the card alone. It says how many of
    selection's matmuls run at once, and never their shape (`tile_rows`), so their sums keep their
    order; and how many rows a tile of the loss has. CPUs and TPUs take TILE_VALUES.
    """
    return max(2 ** int(math.log2(max(memory // 1024, 1))), TILE_VALUES)


def parse_device(text: str) -> Device:
    """`v5e`, or a memory size as `cpu:24GiB` or `gpu:80GiB`; UserError: neither."""
    if text in TPUS:
        return TPUS[text]
    found = re.fullmatch(r"(cpu|gpu):(\d+(?:\.\d+)?)(GiB|MiB)", text)
    if not found:
        raise UserError(
            f"device {text!r} is unknown. Use one of {', '.join(TPUS)}, or the memory of another "
            "device as cpu:24GiB or gpu:80GiB."
        )
    kind, size, unit = found.groups()
    return Device(kind, int(float(size) * GIB / (1 if unit == "GiB" else 1024)))


def parse_topology(text: str) -> Topology:
    """`v5e:2x4`, `v4:2x2x1`: type of TPU and chips along each axis; UserError: neither."""
    kind, _, shape = text.partition(":")
    if kind not in TPUS:
        raise UserError(
            f"topology {text!r}: TPU type {kind!r} is unknown. Use TYPE:SHAPE with one of "
            f"{', '.join(TPUS)}, e.g. v5e:2x4."
        )
    n_axes = 2 if kind in ("v5e", "v6e") else 3
    if not re.fullmatch(r"\d+(x\d+)+", shape) or len(shape.split("x")) != n_axes:
        example = "2x4" if n_axes == 2 else "2x2x1"
        raise UserError(
            f"topology {text!r}: a {kind} slice has {n_axes} axes. Write e.g. {kind}:{example}."
        )
    sizes = tuple(int(size) for size in shape.split("x"))
    if 0 in sizes:
        raise UserError(f"topology {text!r}: an axis has no chip. Write e.g. {kind}:2x4.")
    return Topology(TPUS[kind], sizes)
