"""docs/accelerators.md is what the kept lines say, and says so where there are none."""

import json

from benchmarks.accelerator.page import KEPT, PAGE, page, stored
from benchmarks.accelerator.run import GOALS, figures


def test_the_page_is_generated():
    assert PAGE.read_text(encoding="utf-8") == page(stored())


def test_without_a_run_every_figure_is_not_measured():
    assert page([]).count("| not measured |") == len(GOALS)


def test_a_run_fills_its_figures(tmp_path):
    lines = [
        {"name": name, "seconds": seconds, "flops_per_second": 1e12, "program_bytes": 2**30}
        for name, seconds in (
            ("step-plain-B16-512", 1.0), ("step-jest-B16-512", 4.0),
            ("torch-step-plain-B16-512", 0.95), ("selection-sigmoid-163840", 0.5),
        )
    ]  # fmt: skip
    about = {"device": "H100", "platform": "gpu", "date": "2030-01-01", "jax": "1"}
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join(json.dumps(line | about) for line in lines))
    found = page([file])
    assert "### H100" in found
    assert "b = 512, images a second over PyTorch's | >= 0.9 | 0.95 |" in found
    # Four times the seconds at the same FLOP/s are four times the FLOPs.
    assert "JEST over plain, time ratio over FLOP ratio | 0.9 to 1.1 | 1 |" in found
    assert "seconds | < 1 | 0.5 |" in found and "GiB of the program | < 8 | 1 |" in found


def test_other_pages_say_what_was_measured():
    lines = [json.loads(line) for line in KEPT.read_text().splitlines()]
    share, *_, over_torch, _, _ = figures({line["name"]: line for line in lines})
    readme = (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"selection takes {share:.1f}% of a JEST step" in readme
    assert f"trains {over_torch:.1f} times as many images" in readme
    over = [line["program_bytes"] / e for line in lines if (e := line.get("estimated_bytes"))]
    gpus = PAGE.with_name("gpu.md").read_text(encoding="utf-8")
    assert f"XLA took {min(over):.2f} to {max(over):.2f} times the estimate" in gpus
