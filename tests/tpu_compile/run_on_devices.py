"""Runs an HLO module on several CPU devices; in the environment that compiles for TPU.

python run_on_devices.py HLO_FILE INPUTS_NPZ OUTPUTS_NPZ N_REPLICAS

Inputs `arg_0`, `arg_1` … are [replicas, ...]; outputs `out_0` … likewise.
"""

import os
import sys

hlo_path, inputs_path, outputs_path, n_replicas = *sys.argv[1:4], int(sys.argv[4])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={n_replicas}"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax._src.interpreters import mlir  # noqa: E402
from jaxlib import xla_client  # noqa: E402
from jaxlib.mlir import ir  # noqa: E402

jax.config.update("jax_enable_x64", True)
devices = jax.devices()
with open(hlo_path, "rb") as file:
    computation = xla_client.XlaComputation(file.read())
text = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
text = text.decode() if isinstance(text, bytes) else text
with mlir.make_ir_context():
    module = ir.Module.parse(text.replace("mhlo.copy", "stablehlo.optimization_barrier"))
options = xla_client.CompileOptions()
options.num_replicas, options.num_partitions = n_replicas, 1
options.device_assignment = xla_client.DeviceAssignment.create(
    np.arange(n_replicas).reshape(n_replicas, 1)
)
program = devices[0].client.compile_and_load(module, xla_client.DeviceList(tuple(devices)), options)

inputs = np.load(inputs_path)
mesh = jax.sharding.Mesh(np.array(devices), "replica")
split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("replica"))


def per_replica(x):
    """[replicas, k, ...] as one array whose shards are the replicas' own [k, ...]."""
    flat = x.reshape(-1, *x.shape[2:]) if x.ndim > 1 else x
    return jax.device_put(flat, split)


arguments = []
for k in range(len(inputs.files)):
    value = inputs[f"arg_{k}"]
    if value.ndim == 1:  # scalars: one array per device, of shape []
        shards = [jax.device_put(v, d) for v, d in zip(value, devices, strict=True)]
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        arguments.append(jax.make_array_from_single_device_arrays((), everywhere, shards))
    else:
        arguments.append(per_replica(value))
results = program.execute_sharded(arguments).disassemble_into_single_device_arrays()
np.savez(outputs_path, **{
    f"out_{k}": np.stack([np.asarray(shard) for shard in shards])
    for k, shards in enumerate(results)
})  # fmt: skip
