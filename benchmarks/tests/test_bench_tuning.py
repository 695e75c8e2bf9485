"""The tuning benchmark on models that step in milliseconds: what it runs, not how fast."""

from benchmarks import tuning


def test_each_way_to_tune_is_measured(tmp_path):
    options = {
        "variant": "nano", "image_size": 16, "n_tokens": 4, "sub_batch": 8, "steps": 2,
        "policy": "uniform",
    }  # fmt: skip
    found = tuning.measure(tmp_path, options)
    assert set(found) == {"full", "lora", "cached"}
    assert all(values["pairs_per_second"] > 0 for values in found.values())
    flops = {name: values["gflop_per_pair"] for name, values in found.items()}
    assert flops["cached"] < flops["lora"] < flops["full"]
