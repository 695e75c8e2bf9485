"""Compiles a run's programs for a TPU type on a machine without one.

`lower` (this environment) turns a config into HLO; `worker` (an environment with jax and libtpu,
made by launch/tpu_compile_env.sh) compiles it; `compiler` calls the worker. It proves that XLA's
TPU compiler takes the program and that it fits memory; not that TPUStrategy traces the same graph,
that TensorFlow's own TPU runtime agrees, how fast a step is, or that anything runs.
"""
