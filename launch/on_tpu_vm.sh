#!/usr/bin/env bash
# What launch/tpu_vm.sh runs on the TPU VM itself; can be used there by hand.
#
#   ~/jest_tf/launch/on_tpu_vm.sh install                 environment ~/venv with the TPU packages
#   ~/jest_tf/launch/on_tpu_vm.sh mount_bucket BUCKET     gs://BUCKET at /mnt/BUCKET
#   ~/jest_tf/launch/on_tpu_vm.sh start [TRAIN ARGUMENTS] train in the background
#   ~/jest_tf/launch/on_tpu_vm.sh status                  not started | running | killed | ended CODE
#   ~/jest_tf/launch/on_tpu_vm.sh logs                    follow the log
#   ~/jest_tf/launch/on_tpu_vm.sh stop                    SIGTERM, then wait until it has saved
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PYTHON_HERE="$HOME/venv/bin/python"
STATE="$HOME/jest_tf_run"

# setup.cfg, tensorflow-text and keras-hub (a test oracle) ask for `tensorflow` by name: installed
# beside tensorflow-tpu it would overwrite files in the same folder. So pip must not see them.
install() {
  command -v python3.11 >/dev/null || {
    run sudo apt-get update
    run sudo apt-get install -y python3.11 python3.11-venv
  }
  run python3.11 -m venv "$HOME/venv"
  grep -vE '^(tensorflow|tensorflow-text|keras-hub)==' "$ROOT/constraints.txt" >"$HOME/requirements.txt"
  python3.11 "$ROOT/launch/tpu_requirements.py" >>"$HOME/requirements.txt"
  run "$PYTHON_HERE" -m pip install -r "$HOME/requirements.txt"
  run "$PYTHON_HERE" -m pip install --no-deps "$(grep '^tensorflow-text==' "$ROOT/constraints.txt")"
  run "$PYTHON_HERE" -m pip install --no-deps --editable "$ROOT"
}

mount_bucket() {
  local folder="/mnt/$1"
  if mountpoint -q "$folder"; then return; fi
  command -v gcsfuse >/dev/null || install_gcsfuse
  run sudo mkdir -p "$folder"
  run sudo chown "$(id -un)" "$folder"
  # With streaming writes a log that is still open would not be in the bucket after fsync.
  run gcsfuse --implicit-dirs --enable-streaming-writes=false "$1" "$folder"
}

# From Google's own package source, which not all images know.
install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc source=https://packages.cloud.google.com/apt
  run sudo curl -fsSo "$key" "$source/doc/apt-key.gpg"
  run sudo sh -c 'echo "$1" >/etc/apt/sources.list.d/gcsfuse.list' sh \
    "deb [signed-by=$key] $source gcsfuse-$(lsb_release -cs) main"
  run sudo apt-get update
  run sudo apt-get install -y gcsfuse
}

status() {
  if [[ -f "$STATE/exit_code" ]]; then
    printf 'ended %s\n' "$(<"$STATE/exit_code")"
  elif [[ ! -f "$STATE/pid" ]]; then
    printf 'not started\n'
  elif kill -0 "$(<"$STATE/pid")" 2>/dev/null; then
    printf 'running\n'
  else
    printf 'killed\n' # the VM was restarted
  fi
}

start() {
  [[ "$(status)" != running ]] || fail "training is running already; stop it first."
  mkdir -p "$STATE"
  rm -f "$STATE/exit_code" "$STATE/pid"
  # A session of its own: logging out must not end it.
  setsid nohup "${BASH_SOURCE[0]}" supervise "$@" </dev/null >>"$STATE/log" 2>&1 &
  while [[ ! -f "$STATE/pid" ]]; do sleep 0.1; done
  printf 'started, log in %s\n' "$STATE/log"
}

# Runs training and writes down how it ended, so that another login can tell.
supervise() {
  local code=0
  cd "$ROOT"
  "$PYTHON_HERE" -m jest_tf.train "$@" &
  child="$!"
  trap 'kill -TERM "$child"' TERM
  printf '%s\n' "$$" >"$STATE/pid"
  # A signal ends `wait` early; the child still has to save.
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  printf '%s\n' "$code" >"$STATE/exit_code"
}

logs() {
  exec tail -n 100 -F "$STATE/log"
}

stop() {
  if [[ "$(status)" == running ]]; then
    kill -TERM "$(<"$STATE/pid")"
    while [[ "$(status)" == running ]]; do sleep 0.2; done
  fi
  status
}

action="${1:-}"
case "$action" in
  install | mount_bucket | start | supervise | status | logs | stop)
    shift
    "$action" "$@"
    ;;
  *) fail "the first argument is '$action'; expected install, mount_bucket, start, status, logs or stop." ;;
esac
