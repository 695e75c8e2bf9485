"""What a run survives, tried at length on the shipped commands; `python -m benchmarks.faults`.

`tiny_run` and `tiny_config` are the run that is mistreated, `state` is what must not depend on the
mistreatment, `kills`, `soak`, `scale` and `fuzz` are the parts, `results` keeps their figures and
`page` writes docs/guarantees.md from them.
"""
