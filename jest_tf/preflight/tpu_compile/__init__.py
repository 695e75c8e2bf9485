"""Compiles a run's programs for a TPU type on a machine without one.

`lower` (this environment, TensorFlow) turns a config into HLO; `worker` (an environment of its own,
jax and libtpu, made by launch/tpu_compile_env.sh) compiles the HLO; `compiler` calls the worker.

What it proves: XLA's TPU compiler takes the program, with real collectives over all chips of the
slice, and the program fits their memory. What it does not prove: that TPUStrategy traces the same
graph on a TPU VM, that TensorFlow's TPU runtime (whose lowering is closed, and older than this
libtpu) agrees with the CPU lowering used here, how fast a step is, or that anything runs.
"""
