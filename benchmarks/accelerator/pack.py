"""One HLO module -> StableHLO's portable form. Its own process: needs jax alone.

    python pack.py HLO_FILE OUT_FILE

Prints the shapes and types of parameters and results as JSON. The conversion is a private interface
of jaxlib, so its version is pinned (jest_tf/preflight/tpu_compile/requirements.txt). Later versions
read what it writes.
"""

import json
import pathlib
import sys

from jax._src.interpreters import mlir
from jaxlib import xla_client
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo


def main(hlo_path: str, out_path: str) -> dict[str, list[dict]]:
    """Writes the program, and tells what its parameters and results are."""
    computation = xla_client.XlaComputation(pathlib.Path(hlo_path).read_bytes())
    text = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
    text = text.decode() if isinstance(text, bytes) else text
    # tf2xla puts a copy where TensorFlow asks for a barrier.
    text = text.replace("mhlo.copy", "stablehlo.optimization_barrier")
    with mlir.make_ir_context():
        module = ir.Module.parse(text)
        names = [op.name.value for op in module.body.operations]
        function = module.body.operations[names.index("main")]
        inputs, outputs = (specs(types) for types in (function.type.inputs, function.type.results))
        for name in [str(attribute) for attribute in module.operation.attributes]:
            if name.startswith("mhlo."):  # of TensorFlow's own runtime
                del module.operation.attributes[name]
        artifact = stablehlo.serialize_portable_artifact(module, stablehlo.get_minimum_version())
    pathlib.Path(out_path).write_bytes(artifact)
    return {"types": inputs, "results": outputs}


def specs(types) -> list[dict]:
    """Shapes and types in numpy's words."""
    names = {"i1": "bool", "i8": "int8", "ui8": "uint8", "i32": "int32", "i64": "int64",
             "ui32": "uint32", "ui64": "uint64", "f32": "float32", "f64": "float64",
             "bf16": "bfloat16"}  # fmt: skip
    found = [ir.RankedTensorType(t) for t in types]
    return [{"shape": list(t.shape), "dtype": names[str(t.element_type)]} for t in found]


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
