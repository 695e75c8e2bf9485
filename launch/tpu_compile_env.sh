#!/usr/bin/env bash
# Makes the environment with which `python -m jest_tf.check --compile_for=v5e:2x4` compiles for TPU.
# It holds jax and libtpu, no TensorFlow, and needs no TPU; about 1.3 GB. Safe to run again.
#
#   ./launch/tpu_compile_env.sh [--dry-run] [--venv DIR]
#
# --dry-run   print every command, run none
# --venv DIR  where; default: .venv-tpu-compile of this checkout
#
# Apart from the package's own environment, because a TPU VM needs another libtpu.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

parse_common "$@"
((${#REST[@]} == 0)) || fail "unknown argument ${REST[0]}; see --help."
# Never the active environment: its packages would get other versions.
VENV="${VENV:-$ROOT/.venv-tpu-compile}"
choose_venv
requirements="$ROOT/jest_tf/preflight/tpu_compile/requirements.txt"

if [[ -x "$VENV/bin/python" ]] && cmp -s "$requirements" "$VENV/installed.txt"; then
  printf 'Environment %s is up to date.\n' "$VENV"
else
  make_venv
  run "$VENV/bin/python" -m pip install --disable-pip-version-check --no-compile --requirement "$requirements"
  # Neither git nor the linter shall look inside.
  run sh -c 'echo "*" >"$1/.gitignore"' sh "$VENV"
  # Written last, so that an interrupted installation is done again.
  run cp "$requirements" "$VENV/installed.txt"
fi
