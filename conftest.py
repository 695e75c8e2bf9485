"""Shared test set-up: four logical CPU devices, so that distributed tests run in any process."""

import ctypes
import gc
import os
import resource
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Programs of a test run for milliseconds: what LLVM would optimise costs seconds. Also for the
# processes that tests start. The last of two settings counts, so XLA_FLAGS of the caller holds.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
    + os.environ.get("XLA_FLAGS", "")
)

import pytest
from quick_imports import quick_imports

with quick_imports():
    import tensorflow as tf
    from tensorflow.python.framework import config as framework_config
    from tensorflow.python.framework import ops

N_LOGICAL_DEVICES = 4
# What the fast run leaves out, whole files at a time. A single test carries its own mark.
MARKED_FILES = {
    "process": """
        test_beam test_bench_monitoring test_check test_cli test_config_flag test_contributing
        test_data_about test_default_collectives test_environment test_evidence_report
        test_evidence_runner test_host_memory test_interrupt test_launch test_licences
        test_multi_worker test_package test_quickstart test_reliability_hostile
        test_reliability_kills test_report_in_browser test_search_in_browser test_tpu_compile_env
    """,
    "slow": """
        test_acceptance test_bench_cached_scores test_bench_distributed test_bench_selection
        test_bench_step_cost test_bench_tuning test_check_all_records
        test_contrastive_grad_cache test_cost_flops test_data_in_place test_data_reference_cache
        test_distributed test_embedding_on_replicas test_emoji_base test_emoji_builder
        test_evaluate test_export test_field_any_tree test_field_pictures test_field_runs
        test_first_release test_host_loop test_jest_model test_joint_golden test_joint_oracle
        test_library_doc test_lost_shard test_models_parity test_multi_worker test_own_data
        test_progress_of_commands test_quickstart test_reading_behind test_refused_gradient
        test_reliability_fuzz test_reliability_kills test_replicas_agree test_report
        test_retrieve test_scaling test_score_agreement test_select_robust
        test_serving_safe_load test_serving_saved_model test_several_gpus test_traffic
        test_train test_tune test_tuned_optimizer test_weights_export test_weights_import
        test_weights_serves test_weights_tuned
    """,
    "gate": """
        test_accelerator_bundle test_tpu_compile_env test_tpu_compile_gate test_tpu_compile_worker
    """,
}

# Must come before TensorFlow touches its devices, hence at import and not in a fixture.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * N_LOGICAL_DEVICES,
)
# A graph that runs a few times is not worth rewriting either.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marks_of = {
        name: [mark for mark, names in MARKED_FILES.items() if name in names.split()]
        for name in {item.path.stem for item in items}
    }
    for item in items:
        for mark in marks_of[item.path.stem]:
            item.add_marker(mark)


def pytest_collection_finish() -> None:
    """What was imported stays: a collection after each file need not look through it."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter) -> None:
    """What launch/test.sh bounds: each of its parts is a process of its own."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sum(u.ru_utime + u.ru_stime for u in (used, children))
    terminalreporter.write_line(
        f"{used.ru_maxrss / 2**20:.1f} GB at most (children {children.ru_maxrss / 2**20:.1f}), "
        f"{seconds:.0f} s of processor time"
    )


def _give_memory_back() -> None:
    """TensorFlow registers each traced custom gradient for good, and with it the graph around it:
    40 MB a train step."""
    registry = ops.gradient_registry._registry
    for name in [name for name in registry if name.startswith("CustomGradient-")]:
        del registry[name]
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module", autouse=True)
def _memory_given_back():
    """Between two files nothing uses what was traced."""
    yield
    _give_memory_back()


@pytest.fixture
def memory_given_back():
    """After each test, for files whose tests share no traced function: whole runs."""
    yield
    _give_memory_back()


@pytest.fixture(scope="session")
def logical_devices() -> list[str]:
    """Names of the logical CPU devices, to build a MirroredStrategy over some of them."""
    return [f"CPU:{i}" for i in range(N_LOGICAL_DEVICES)]


@pytest.fixture(autouse=True)
def _no_determinism_left_behind():
    """A run with strategy.deterministic switches it on for its process: not for later tests."""
    yield
    framework_config.disable_op_determinism()
