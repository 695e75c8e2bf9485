"""Compiles one HLO module for a TPU topology and prints what came of it as JSON.

    python worker.py HLO_FILE TOPOLOGY N_REPLICAS

Runs in the environment of launch/tpu_compile_env.sh and imports nothing of this package. Uses
private interfaces of jax 0.10.2; `get_topology_desc` is the only public one.
"""

import json
import math
import os
import re
import sys
import time

os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # Else libtpu asks a metadata server for minutes.
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # Compiling holds no chip: no lock is needed.
os.environ["JAX_PLATFORMS"] = "cpu"

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
         "f32": 4, "s64": 8, "u64": 8, "f64": 8}  # fmt: skip


def main(hlo_path: str, topology_name: str, n_replicas: int) -> dict:
    import jax
    import numpy as np
    from jax._src.interpreters import mlir
    from jax.experimental import topologies
    from jaxlib import xla_client
    from jaxlib.mlir import ir

    # A chip of v4 has two cores; TensorFlow drives them as one, which libtpu calls megacore.
    options = {"chip_config_name": "megacore"} if topology_name.startswith("v4") else {}
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=topology_name, **options
        )
    except jax.errors.JaxRuntimeError as error:
        return failure("topology", error)
    devices = topology.devices
    if len(devices) != n_replicas:
        message = f"{topology_name} has {len(devices)} devices, the program {n_replicas} replicas"
        return failure("topology", message)

    with open(hlo_path, "rb") as file:
        computation = xla_client.XlaComputation(file.read())
    text = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
    text = text.decode() if isinstance(text, bytes) else text
    # TPU's compiler knows no mhlo.copy; tf2xla puts one where TensorFlow asks for a barrier.
    text = text.replace("mhlo.copy", "stablehlo.optimization_barrier")
    with mlir.make_ir_context():
        module = ir.Module.parse(text)

    compile_options = xla_client.CompileOptions()
    compile_options.num_replicas, compile_options.num_partitions = n_replicas, 1
    compile_options.device_assignment = xla_client.DeviceAssignment.create(
        np.arange(n_replicas).reshape(n_replicas, 1)
    )
    start = time.monotonic()
    try:
        executable = devices[0].client.compile(
            module, xla_client.DeviceList(tuple(devices)), compile_options
        )
    except jax.errors.JaxRuntimeError as error:
        return failure("compile", error)
    seconds = time.monotonic() - start

    stats = executable.get_compiled_memory_stats()
    costs = executable.cost_analysis()
    return {
        "ok": True,
        "device_kind": devices[0].device_kind,
        "compile_seconds": seconds,
        "argument_bytes": stats.argument_size_in_bytes,
        "output_bytes": stats.output_size_in_bytes,
        "alias_bytes": stats.alias_size_in_bytes,
        "temporary_bytes": stats.temp_size_in_bytes,
        "code_bytes": stats.generated_code_size_in_bytes,
        "flops": costs["flops"],
        "bytes_accessed": costs["bytes accessed"],
        "collectives": collectives(executable.hlo_modules()[0].to_string()),
    }


def collectives(hlo: str) -> list[dict]:
    """Each collective of an optimized module: {op, name, bytes of its result, in_loop}."""
    found, calls, bodies, computation = [], {}, set(), ""
    for line in hlo.splitlines():
        header = re.match(r"(?:ENTRY )?(%[\w.-]+) \(.*\{$", line)
        if header:
            computation = header[1]
        for called in re.findall(r"(?:body|condition|calls|to_apply)=(%[\w.-]+)", line):
            calls.setdefault(computation, set()).add(called)
        bodies.update(re.findall(r"(?:body|condition)=(%[\w.-]+)", line))
        op = re.search(r"= (\(.*?\)|\S+) (" + "|".join(COLLECTIVES) + r")(?:-start)?\(", line)
        if op:
            name = re.search(r'op_name="([^"]*)"', line)
            found.append((computation, op[2], size_of(op[1]), name[1] if name else ""))
    looped, waiting = set(), list(bodies)
    while waiting:
        computation = waiting.pop()
        if computation not in looped:
            looped.add(computation)
            waiting += calls.get(computation, ())
    return [
        {"op": op, "name": name, "bytes": size, "in_loop": computation in looped}
        for computation, op, size, name in found
    ]


def size_of(shapes: str) -> int:
    """Bytes of an HLO shape or tuple of shapes, without the padding of its layout."""
    total = 0
    for kind, dimensions in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes):
        if kind in BYTES:
            total += BYTES[kind] * math.prod(map(int, filter(None, dimensions.split(","))))
    return total


def failure(stage: str, error: object) -> dict:
    """The compiler's first lines, and the operations that it names, largest allocation first."""
    text = str(error)
    names = re.findall(r'op_name="([^"]+)"', text) or re.findall(r"^\s*(%[\w.-]+) = ", text, re.M)
    allocations = re.findall(r"Size: (\S+)\s+Operator: op_name=\"([^\"]*)\".*?Shape: (\S+)", text,
                             re.S)  # fmt: skip
    return {
        "ok": False,
        "stage": stage,
        "message": "\n".join(text.strip().splitlines()[:3]),
        "operations": list(dict.fromkeys(names))[:5],
        "allocations": [f"{size} {shape} {name}" for size, name, shape in allocations[:5]],
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
