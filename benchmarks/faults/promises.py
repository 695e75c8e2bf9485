"""What a run promises, each with the tests that show it and the figures of the long form."""

from typing import NamedTuple


class Promise(NamedTuple):
    """One line of docs/guarantees.md. tests: FILE::TEST below tests/. figures: names of results."""

    text: str
    tests: tuple[str, ...]
    figures: tuple[str, ...] = ()


_KILLS = "benchmarks/tests/faults/test_reliability_kills.py::"
_FUZZ = "benchmarks/tests/faults/test_reliability_fuzz.py::"
_SAFE_LOAD = "serving/test_serving_safe_load.py::"
_WEB = "serving/test_serving_web.py::"
_HOSTILE = "benchmarks/tests/faults/test_reliability_hostile.py::"
_CHECKPOINT = "training/test_checkpoint.py::"
_SHARDS = "training/test_checkpoint_shards.py::"
_WORKERS = "training/test_multi_worker.py::"
_WORKDIR = "training/test_workdir.py::"
_UNDISTURBED = _KILLS + "test_a_run_killed_at_the_worst_points_equals_an_undisturbed_one"
_INTERRUPTED = "test_train.py::test_interrupted_twice_and_continued_equals_uninterrupted"
_MUTATED = _FUZZ + "test_mutated_inputs_are_used_or_refused_and_never_more"

SECTIONS: dict[str, tuple[Promise, ...]] = {
    "Interruptions": (
        Promise(
            "After kill -9 at any moment the same command continues; weights, optimizer, metrics, "
            "picks, evaluations and the ledger's counts end bit-identical to a run that nobody "
            "disturbed (same devices, `strategy.deterministic`).",
            (_UNDISTURBED, _CHECKPOINT + "test_killed_at_any_system_call_leaves_a_sound_newest"),
            ("kills", "kills_starts_that_failed", "kills_runs_that_differ"),
        ),
        Promise(
            "SIGTERM and Ctrl-C save after the host loop of steps that is running, then exit with "
            "143 and 130; a second Ctrl-C does not wait.",
            (_INTERRUPTED, "runtime/test_interrupt.py::test_a_process_stops_in_order",
             "runtime/test_interrupt.py::test_second_ctrl_c_raises"),
            ("soak_seconds_from_sigterm_to_exit",),
        ),
        Promise(
            "SIGTERM to any of several worker processes saves and ends all, one step later.",
            (_WORKERS + "test_sigterm_to_any_worker_saves_and_ends_all",),
        ),
        Promise(
            "A lost worker process ends the others with an exit code of its own.",
            (_WORKERS + "test_the_other_worker_stops_and_says_why_when_one_is_killed",),
        ),
    ),
    "Checkpoints": (
        Promise(
            "Written aside, verified by SHA-256, swapped in one rename; verified again before the "
            "first variable is assigned.",
            (_CHECKPOINT + "test_write_error_that_the_disk_did_not_report_is_caught",
             _CHECKPOINT + "test_restores_every_bit_and_the_state"),
        ),
        Promise(
            "More than 5 GB of variables lie in several files, and each worker process writes its "
            "share. Without all shares nothing is saved. Any number of processes restores all.",
            (_SHARDS + "test_each_worker_writes_its_share_and_one_process_reads_all",
             _SHARDS + "test_without_a_share_nothing_is_saved_and_the_last_one_stays",
             _SHARDS + "test_damage_to_any_file_is_noticed"),
        ),
        Promise(
            "A truncated or bit-flipped newest one is reported and the previous one used; all "
            "damaged is an error and no fresh start.",
            (_CHECKPOINT + "test_damaged_newest_is_reported_and_the_previous_used",
             _CHECKPOINT + "test_all_damaged_is_an_error_not_a_fresh_start"),
        ),
        Promise(
            "A full or read-only disk stops the run with the last good state intact, and says so.",
            (_CHECKPOINT + "test_full_disk_says_so_and_keeps_the_last_good_one",
             _CHECKPOINT + "test_read_only_folder_says_so_and_keeps_the_last_good_one"),
        ),
        Promise(
            "`checkpoint.keep` never removes the checkpoint just saved.",
            (_CHECKPOINT + "test_keep_never_drops_the_one_just_saved",),
        ),
        Promise(
            "A forged checkpoint (fitting checksums, other content) is refused. It runs nothing, "
            "and the memory that its header asks for is not allocated.",
            (_CHECKPOINT + "test_a_forged_checkpoint_is_refused_and_runs_nothing",),
        ),
    ),
    "Numbers that are not finite": (
        Promise(
            "A step with a loss or gradient that is not finite changes no weight; the ids of its "
            "batch are written to refused_steps.jsonl.",
            ("training/test_jest_model.py::"
             "test_a_refused_step_changes_nothing_but_the_step_count",
             "training/test_refused_gradient.py::"
             "test_a_gradient_that_is_not_finite_refuses_the_step"),
        ),
        Promise(
            "More than `log.max_refused_steps` in a row stop the run with exit code 3 and the last "
            "good state saved.",
            ("test_train.py::test_too_many_refused_steps_stop_the_run_with_its_ids",),
        ),
        Promise(
            "Selection never picks a row that is invalid or whose score is not finite.",
            ("selection/test_select_robust.py::test_invalid_and_broken_rows_are_never_picked",),
        ),
    ),
    "Hostile input": (
        Promise(
            "Mutated records, images, captions, tars, JSON, tables, vocabularies, checkpoints, "
            "logs and inputs of an export are used or refused, all counted: no crash, no hang, no "
            "unbounded memory.",
            (_MUTATED,),
            ("fuzz_inputs", "fuzz_findings", "fuzz_crashes", "fuzz_hangs", "fuzz_peak_memory"),
        ),
        Promise(
            "A record that cannot be read keeps its slot, is never picked and is counted; too many "
            "stop the run with a list.",
            ("data/test_data_pipeline.py::test_bad_records_keep_their_slots",
             "data/test_data_retry.py::test_too_many_bad_records_stop_the_run_with_a_list"),
        ),
        Promise(
            "The same holds for a record whose string claims more bytes than the record has; from "
            "2 GB on it would crash TensorFlow's own parser.",
            ("data/test_data_examples.py::test_training_and_its_vocabulary_pass_over_forged_records",
             "data/test_data_examples.py::test_a_length_beyond_the_record_is_an_error"),
        ),
        Promise(
            "Pictures and archives that would unpack to more than a bound are refused by their "
            "header.",
            ("data/test_data_preprocess.py::test_a_jpeg_of_100_megapixels_is_refused_by_its_header",
             "data/test_data_prepare.py::"
             "test_archives_that_are_damaged_or_unpack_without_end_are_told"),
        ),
        Promise(
            "Nothing read from data is evaluated or unpickled: no file of the package holds what "
            "could do it. `--config` runs the user's own file, as its help says.",
            (_HOSTILE + "test_no_file_of_the_package_can_run_data",),
        ),
        Promise(
            "A SavedModel from somebody else loads only if it has one meta graph with an object "
            "graph, no initialiser, and only operations on a list of those that compute. The check "
            "covers every node and every function, called or not. A fault inside one of "
            "TensorFlow's own kernels is not covered.",
            (_SAFE_LOAD + "test_a_model_that_acts_is_not_loaded",
             _SAFE_LOAD + "test_a_main_op_is_not_run",
             _SAFE_LOAD + "test_a_second_meta_graph_is_not_run",
             _SAFE_LOAD + "test_a_function_behind_a_gradient_is_seen",
             _SAFE_LOAD + "test_a_data_service_is_not_reached",
             _SAFE_LOAD + "test_a_descriptor_file_is_not_read"),
        ),
        Promise(
            "The search page answers only under its own name, opens no path that a client names, "
            "and bounds what is uploaded, in bytes and in pixels.",
            (_WEB + "test_another_site_cannot_ask_under_its_own_name",
             _WEB + "test_only_rows_of_an_index_are_served",
             _WEB + "test_uploads_are_bounded_in_bytes_and_pixels"),
        ),
        Promise(
            "Names inside tars are keys and never paths.",
            ("data/test_data_prepare.py::test_members_of_a_tar_stay_in_it",),
        ),
    ),
    "Load": (
        Promise(
            "Memory, open files and threads stay flat over hours; the logs' size is bounded.",
            ("training/test_shown_examples.py::test_the_cadence_halves_each_time_the_run_doubles",),
            ("soak_memory_slope_per_hour", "soak_memory_slope_per_step", "soak_open_files_slope",
             "soak_threads_slope", "soak_tensorboard_megabytes_of_a_million_steps",
             "soak_samples_megabytes_of_a_million_steps"),
        ),
        Promise(
            "Ten million records and a thousand shards are listed, not loaded.",
            ("data/test_data_prepare.py::test_a_table_is_scanned_and_not_held",
             "data/test_data_pipeline.py::test_resuming_reads_no_more_than_a_group_of_a_lane_again"),
            ("scale_first_batch_memory", "scale_first_batch_seconds", "scale_resumed_batch_memory",
             "scale_resumed_batch_seconds", "scale_table_memory",
             "scale_shards_first_batch_seconds", "scale_shards_open_files"),
        ),
        Promise(
            "Read errors and shards that vanish for moments are retried at the same step, waiting "
            "twice as long each time; then the run stops and names the file.",
            ("data/test_data_retry.py::test_a_shard_that_comes_back_is_waited_for",
             "data/test_data_retry.py::test_a_shard_that_disappears_is_named_after_the_retries"),
            ("scale_flaky_steps_that_differ", "scale_lost_shard_is_named"),
        ),
    ),
    "Surroundings": (
        Promise(
            "Two runs on one workdir are refused; the lock of a dead process is free at once.",
            (_WORKDIR + "test_second_run_on_one_workdir_is_refused",
             _WORKDIR + "test_lock_of_a_killed_process_is_free_at_once"),
        ),
        Promise(
            "Runs do not depend on a clock that goes backwards, LC_ALL=C, the time zone, a home "
            "folder without write permission, or paths with spaces and letters beyond ASCII.",
            (_UNDISTURBED,),
        ),
        Promise(
            "The same seed twice on one machine gives the same bits.",
            (_UNDISTURBED, _INTERRUPTED),
        ),
    ),
    "Supply chain": (
        Promise(
            "Dependencies are bounded in setup.cfg, pinned with all of theirs in constraints.txt, "
            "which CI installs, and consistent (`pip check`).",
            ("benchmarks/tests/test_licences.py::test_every_dependency_of_a_dependency_is_pinned",
             "benchmarks/tests/test_licences.py::test_what_was_tested_lies_within_what_is_allowed",
             "benchmarks/tests/test_licences.py::test_the_environment_is_consistent"),
        ),
        Promise(
            "Licences of dependencies and data are listed in [licences.md](licences.md).",
            ("benchmarks/tests/test_licences.py::test_the_page_lists_every_pinned_package_once_with_a_licence",),
        ),
    ),
}  # fmt: skip
