"""metrics.jsonl: nothing doubled after a resume, half lines dropped, numbers as they were."""

import json
import math
import resource

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.monitoring.metrics_log import MetricsLog, read_metrics


def write_steps(path, steps, start_step=0):
    log = MetricsLog(path, start_step, now=lambda: 12.3456)
    for step in steps:
        log.write(step, {"loss": step / 3})
    log.sync()
    log.close()


def steps_in(path):
    return [line["step"] for line in read_metrics(path)]


def test_numbers_of_all_kinds_come_back(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl", now=lambda: 12.3456)
    log.write(
        np.int64(3),
        {
            "tensor": tf.constant(0.1),
            "numpy": np.float32(0.1),
            "int": np.int64(2**60),
            "bool": tf.constant(True),
            "text": "é",
            "nan": np.float32("nan"),
            "inf": -math.inf,
        },
    )
    raw = (tmp_path / "m.jsonl").read_text(encoding="utf-8")
    assert json.loads(raw, parse_constant=pytest.fail)["nan"] == "nan"
    (line,) = read_metrics(tmp_path / "m.jsonl")
    assert math.isnan(line.pop("nan"))
    assert line == {
        "step": 3,
        "time": 12.346,
        "tensor": float(np.float32(0.1)),
        "numpy": float(np.float32(0.1)),
        "int": 2**60,
        "bool": True,
        "text": "é",
        "inf": -math.inf,
    }


@pytest.mark.parametrize("start_step", [0, 20, 25, 30, 99])
def test_resume_gives_the_same_lines_as_no_interruption(tmp_path, start_step):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    write_steps(whole, [10, 20, 30, 40, 50])
    write_steps(resumed, [10, 20, 30])
    write_steps(resumed, [s for s in (10, 20, 30, 40, 50) if s > start_step], start_step)
    if start_step < 99:
        assert resumed.read_bytes() == whole.read_bytes()
    else:
        assert steps_in(resumed) == [10, 20, 30]


def test_a_line_cut_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "m.jsonl"
    write_steps(path, [10, 20])
    with open(path, "ab") as file:
        file.write(b'{"step": 30, "lo')
    assert steps_in(path) == [10, 20]
    write_steps(path, [30], start_step=30)
    assert steps_in(path) == [10, 20, 30]


def test_damage_in_the_middle_costs_one_line(tmp_path):
    path = tmp_path / "m.jsonl"
    write_steps(path, [10])
    with open(path, "ab") as file:
        file.write(b'\xff\x00garbage\n[1, 2]\n{"step": "x"}\n')
    write_steps(path, [20], start_step=15)
    assert steps_in(path) == [10, 20]


def test_full_disk_names_the_file_and_the_next_start_repairs_it(tmp_path):
    path = tmp_path / "m.jsonl"
    write_steps(path, [10])
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = MetricsLog(path, 10)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, hard))
    try:
        with pytest.raises(UserError, match=r"m\.jsonl cannot be written: File too large"):
            log.write(20, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write_steps(path, [20], start_step=10)
    assert steps_in(path) == [10, 20]


def test_a_missing_folder_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        MetricsLog(tmp_path / "missing" / "m.jsonl")


def test_it_knows_what_it_has_of_the_newest_step(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl")
    log.write(4, {"loss": 1.0})
    log.write(4, {"recall": 0.5})
    log.close()
    log = MetricsLog(tmp_path / "m.jsonl", start_step=4)
    assert log.has(4, ["recall", "loss"])
    assert not log.has(4, ["recall", "top1"])
    log.write(5, {"loss": 1.0})
    assert log.has(5, ["loss"]) and not log.has(5, ["recall"]) and not log.has(4, ["loss"])
    log.close()
