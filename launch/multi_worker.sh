#!/usr/bin/env bash
# Runs one command in several worker processes that train together (MultiWorkerMirroredStrategy).
# Sets TF_CONFIG for each and stops all when one ends with an error.
#
# All workers on this machine:
#   ./launch/multi_worker.sh --workers 2 -- python -m jest_tf.train \
#     --config=configs/emoji.py --config.strategy.kind=multi_worker --workdir=DIR
#
# One worker on each of several machines: the same command on every machine but for --index.
#   ./launch/multi_worker.sh --hosts 10.0.0.1:12345,10.0.0.2:12345 --index 0 -- COMMAND
#
# --workers N     number of local processes
# --port PORT     of the first local process, the next ones follow; default 23456
# --logs DIR      where the local processes write worker-I.log; default: worker 0 writes to the
#                 terminal, the others into a temporary folder
# --hosts LIST    all workers as host:port, separated by commas
# --index I       which of the hosts this machine is, from 0
# --dry-run       print every command, run none
#
# Exit code: that of the first worker that failed, else 0. SIGTERM and Ctrl-C go to all workers,
# which save and stop; the same command continues.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

workers="" port=23456 logs="" hosts="" index=""
parse_options "workers port logs hosts index" "" "$@"
((${#REST[@]})) || fail "no command; give it after --."
command=("${REST[@]}")

# tf_config HOSTS INDEX: what TensorFlow reads to find its peers.
tf_config() {
  printf '{"cluster": {"worker": ["%s"]}, "task": {"type": "worker", "index": %d}}' \
    "${1//,/\", \"}" "$2"
}

if [[ -n "$hosts" ]]; then
  [[ -z "$workers" ]] || fail "give --workers (this machine) or --hosts (several), not both."
  n_hosts="$(awk -F, '{print NF}' <<<"$hosts")"
  [[ "$index" =~ ^[0-9]+$ && "$index" -lt "$n_hosts" ]] ||
    fail "--index is '$index'; expected 0 to $((n_hosts - 1)), as --hosts names $n_hosts."
  run env "TF_CONFIG=$(tf_config "$hosts" "$index")" "${command[@]}"
  exit
fi

[[ "$workers" =~ ^[1-9][0-9]*$ ]] || fail "--workers is '$workers'; expected a number from 1 on."
[[ "$port" =~ ^[0-9]+$ ]] || fail "--port is '$port'; expected a number."
hosts="localhost:$port"
for ((i = 1; i < workers; i++)); do
  hosts+=",localhost:$((port + i))"
done

prepare_logs() {
  if [[ -z "$logs" ]]; then
    logs="$(mktemp -d "${TMPDIR:-/tmp}/jest_tf-workers.XXXXXX")"
    log_to_terminal=true
  fi
  mkdir -p "$logs"
  printf 'Logs of the workers: %s\n' "$logs"
}

# start I: one worker in the background; its process number goes to `pids`.
start() {
  local worker=(env "TF_CONFIG=$(tf_config "$hosts" "$1")" "${command[@]}")
  show "${worker[@]}"
  [[ "$DRY_RUN" != true ]] || return 0
  if [[ "$1" == 0 && "$log_to_terminal" == true ]]; then
    "${worker[@]}" &
  else
    "${worker[@]}" &>"$logs/worker-$1.log" &
  fi
  pids+=("$!")
}

# Asks every worker to save and stop, and ends after a while those that hang in a lost exchange.
stop_all() {
  kill -TERM "${pids[@]}" 2>/dev/null || true
  if [[ -z "$killer" ]]; then
    kill_after_grace "${pids[@]}" &>/dev/null &
    killer="$!"
  fi
}

kill_after_grace() {
  # The trap takes the sleep along when this is no longer needed.
  trap 'kill "$sleeping"; exit' TERM
  sleep "$GRACE_SECONDS" &
  sleeping="$!"
  wait "$sleeping"
  kill -KILL "$@"
}

readonly GRACE_SECONDS=60
pids=() log_to_terminal=false killer=""
[[ "$DRY_RUN" == true ]] || prepare_logs
for ((i = 0; i < workers; i++)); do
  start "$i"
done
[[ "$DRY_RUN" != true ]] || exit 0

# Workers wait for each other in every step: one that is gone would leave the others hanging.
trap stop_all TERM INT
status=0
while ((${#pids[@]})); do
  pid="" code=0
  wait -n -p pid "${pids[@]}" || code=$?
  # Empty: a signal came in; the workers are being stopped.
  [[ -n "${pid:-}" ]] || continue
  for i in "${!pids[@]}"; do
    [[ "${pids[$i]}" != "$pid" ]] || unset "pids[$i]"
  done
  if ((code && !status)); then
    status="$code"
    printf 'A worker ended with exit code %d; stopping the others. Logs: %s\n' "$code" "$logs" >&2
    ((${#pids[@]} == 0)) || stop_all
  fi
done
[[ -z "$killer" ]] || kill "$killer" 2>/dev/null || true
exit "$status"
