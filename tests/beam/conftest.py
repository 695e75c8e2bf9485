"""Collected where Apache Beam is installed: in the environment of launch/beam_test.sh, in CI."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("apache_beam") else ["test_beam.py"]
