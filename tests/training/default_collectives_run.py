"""Steps on two devices with the exchanges that TensorFlow chooses by itself; one JSON line.

A process of its own: collectives among CPUs keep the group size that a process first used.
"""

import json

from quick_imports import quick_imports

with quick_imports():
    import tensorflow as tf


def main() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    tf.distribute.ReductionToOneDevice = lambda: None  # what `_mirrored` asks for among CPUs
    import tiny

    found = {}
    for n_replicas in (1, 2):
        _, loop, schedule = tiny.trainer(n_replicas, observe=True)
        results = [loop.run(schedule.plan(step), 1) for step in range(2)]
        extended = tiny.runtime(n_replicas).strategy.extended
        ops = type(getattr(extended, "_cross_device_ops", None)).__name__
        found[n_replicas] = {
            "picks": [sorted(result.picks[0].tolist()) for result in results],
            "loss": [result.metrics["train/loss"] for result in results],
            "norm": [result.metrics["train/gradient_norm"] for result in results],
            "code": results[0].observed.code.tolist(),
            "ops": ops,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
