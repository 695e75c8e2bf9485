"""Reading the compiler's answers, and lowering: all that needs no TPU compiler."""

import json
import os
import stat

import pytest
import tensorflow as tf

from jest_tf.devices import parse_topology
from jest_tf.errors import UserError
from jest_tf.preflight import compiling as compiler
from jest_tf.preflight.tpu_compile import worker
from jest_tf.preflight.tpu_compile.lower import CompiledCollectives, hlo_of
from jest_tf.selection import SelectionSpec, gather_picked, select

HLO = """\
HloModule m
%body.1 (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %fused = f32[8,4]{1,0} fusion(%p), kind=kLoop, calls=%inner.2
  %all-reduce.1 = f32[8,4]{1,0:T(8,128)} all-reduce(%fused), metadata={op_name="while/A"}
}
%inner.2 (p: f32[8,4]) -> f32[8,4] {
  %all-to-all.1 = (s8[16]{0}, pred[4]{0}) all-to-all(%p), metadata={op_name="deep"}
}
%condition.3 (p: (s32[], f32[8,4])) -> pred[] {
  ROOT %compare = pred[] compare(%i, %n), direction=LT
}
ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %while.1 = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition.3, body=%body.1
  ROOT %all-reduce.9 = (bf16[3]{0}, u32[2,2]{1,0}) all-reduce(%a, %b), metadata={op_name="B"}
}
"""


def test_collectives_are_read_with_bytes_and_loops():
    assert worker.collectives(HLO) == [
        {"op": "all-reduce", "name": "while/A", "bytes": 128, "in_loop": True},
        {"op": "all-to-all", "name": "deep", "bytes": 20, "in_loop": True},
        {"op": "all-reduce", "name": "B", "bytes": 22, "in_loop": False},
    ]


def test_failure_names_allocations():
    text = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.0G of 15.7G hbm.
Largest program allocations in hbm:
  1. Size: 12.00G
     Operator: op_name="jest/image/block_1/Softmax" source_file="x.py"
     Shape: bf16[512,12,256,256]{3,2,1,0:T(8,128)(2,1)}
     Unpadded size: 12.00G
"""
    found = worker.failure("compile", text)
    assert not found["ok"]
    assert found["operations"] == ["jest/image/block_1/Softmax"]
    assert found["allocations"] == [
        "12.00G bf16[512,12,256,256]{3,2,1,0:T(8,128)(2,1)} jest/image/block_1/Softmax"
    ]


def hlo_text(program, *specs):
    flat = tf.function(program, jit_compile=True, autograph=False)
    return flat.experimental_get_compiler_ir(*specs)(stage="hlo")


def test_lowered_collectives_are_those_of_xla():
    def program(x, ids):
        group = CompiledCollectives(4)
        return group.all_reduce_sum([x, x + 1]), group.all_gather(ids)

    text = hlo_text(program, tf.TensorSpec([3, 5]), tf.TensorSpec([3], tf.int64))
    assert text.count(" all-reduce(") == 3
    assert "replica_groups={{0,1,2,3}}" in text
    assert "s32[4,3,2]" in text  # int64 ids travel as pairs of words
    assert "s64[12]" in text


def test_types_that_tpus_cannot_sum_are_refused_by_name():
    def program(ids):
        return CompiledCollectives(4).all_reduce_sum(ids)

    with pytest.raises(UserError, match=r"(?s)step.*all_reduce_sum of int64 \(3,\)"):
        hlo_of("step", program, tf.TensorSpec([3], tf.int64))


def test_lowering_names_the_operation():
    def program(x):
        return tf.strings.length(tf.strings.as_string(x))

    with pytest.raises(UserError, match=r"(?s)step cannot be lowered for TPU.*AsString"):
        hlo_of("step", program, tf.TensorSpec([3]))


def test_lowering_names_the_line_of_this_package():
    spec = SelectionSpec(8, 4, policy="independent_top_k", n_chunks=2)

    def program(valid, seed):
        return select(spec, None, None, valid, seed)  # needs embeddings: a mistake of the caller

    with pytest.raises(UserError, match="needs the learner's embeddings"):
        hlo_of("step", program, tf.TensorSpec([8], tf.bool), tf.TensorSpec([2], tf.int32))

    def integers(ids):
        return gather_picked(ids, tf.constant([0, 1, 2, 3]), Sums64())

    with pytest.raises(UserError, match=r"int64.*\nmade in jest_tf/selection/exchange.py, line "):
        hlo_of("step", integers, tf.TensorSpec([4, 2], tf.int64))


class Sums64(CompiledCollectives):
    """Sums everything as int64, which TPUs cannot."""

    def __init__(self):
        super().__init__(4)

    def all_reduce_sum(self, x):
        return super().all_reduce_sum(tf.cast(x, tf.int64))


def fake_environment(folder, script):
    """An environment whose interpreter is a shell script, to answer in the compiler's place."""
    path = folder / "bin" / "python"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return compiler.python_of(str(folder))


def test_missing_environment_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="launch/tpu_compile_env.sh"):
        compiler.python_of(str(tmp_path))


def test_crash_of_the_compiler_is_reported(tmp_path):
    python = fake_environment(tmp_path, "echo noise; echo 'No module named jax' >&2; exit 7")
    with pytest.raises(UserError, match="(?s)code 7.*No module named jax.*tpu_compile_env"):
        compiler.compile_hlo("step", b"", parse_topology("v5e:2x4"), python)


def test_memory_is_arguments_results_temporaries_and_code(tmp_path):
    answer = {
        "ok": True, "device_kind": "x", "compile_seconds": 2.0, "argument_bytes": 1000,
        "output_bytes": 700, "alias_bytes": 600, "temporary_bytes": 50, "code_bytes": 7,
        "flops": 3.0, "bytes_accessed": 1.0, "collectives": [],
    }  # fmt: skip
    (tmp_path / "answer").write_text("a line of log\n" + json.dumps(answer))
    python = fake_environment(tmp_path, f"cat {os.path.join(tmp_path, 'answer')}")
    name = "train step 48/8"  # as programs are named: with the resolution
    compiled = compiler.compile_hlo(name, b"", parse_topology("v5e:2x4"), python)
    assert compiled.used == 1000 + 100 + 50 + 7


def test_out_of_memory_lists_the_largest(tmp_path):
    answer = {"ok": False, "stage": "compile", "message": "Ran out of memory",
              "operations": ["a/b"], "allocations": ["12G f32[3] a/b"]}  # fmt: skip
    (tmp_path / "answer").write_text(json.dumps(answer))
    python = fake_environment(tmp_path, f"cat {os.path.join(tmp_path, 'answer')}")
    with pytest.raises(UserError, match=r"(?s)v5e:2x4: Ran out of memory.*12G f32\[3\] a/b"):
        compiler.compile_hlo("step", b"", parse_topology("v5e:2x4"), python)
