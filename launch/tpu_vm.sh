#!/usr/bin/env bash
# Runs training on a Cloud TPU VM: from creating it to deleting it. Needs gcloud, logged in.
# Never run on hardware so far: see docs/tpu.md for what is tested without a TPU, and how.
#
#   ./launch/tpu_vm.sh COMMAND --name NAME --zone ZONE [OPTIONS] [-- TRAIN ARGUMENTS]
#
# Commands, in the order of a run:
#   create   make the TPU VM
#   install  copy this checkout (committed files) to it and install the package there
#   start    start `python -m jest_tf.train TRAIN ARGUMENTS`; it goes on when you log out
#   status   print the VM's state, and whether training runs or with what exit code it ended
#   logs     follow the training log
#   stop     send SIGTERM and wait until training has saved and ended
#   delete   delete the VM
#   keep     do it all and stay: create, install and start, and again after each preemption, until
#            training ends. The same arguments continue the run from its newest checkpoint.
#
# Options:
#   --type TYPE        accelerator type, e.g. v5litepod-8 (default), v4-8, v5litepod-64
#   --pod              the type has several hosts: TensorFlow runs on worker 0 and drives all
#   --version VERSION  runtime image; default tpu-ubuntu2204-base, with --pod
#                      tpu-vm-tf-2.20.0-pod-pjrt (its TPU servers must speak our TensorFlow)
#   --project PROJECT  Google Cloud project; default: gcloud's own
#   --bucket BUCKET    `start` mounts gs://BUCKET at /mnt/BUCKET first, on worker 0: for --workdir
#   --spot             cheaper, may be preempted at any time; use with `keep`
#   --every SECONDS    how often `keep` looks; default 60
#   --faults N         how often `keep` starts training again after it ended with an error that may
#                      pass (exit codes 1 and 4), until it has run for an hour; default 3
#   --dry-run          print every command, run none
#
# A preempted VM loses its disk: give --bucket BUCKET, and after the -- a --workdir=/mnt/BUCKET/….
# The bucket must have a hierarchical namespace (docs/tpu.md): only there a checkpoint is saved whole.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

name="" zone="" type=v5litepod-8 version="" project="" bucket="" every=60 faults=3
pod=false spot=false
command="${1:-}"
case "$command" in
  create | install | start | status | logs | stop | delete | keep) shift ;;
  --help | -h)
    usage
    exit 0
    ;;
  *) fail "the first argument is '$command'; expected create, install, start, status, logs, stop, delete or keep." ;;
esac
parse_options "name zone type version project bucket every faults" "pod spot" "$@"
[[ -n "$name" && -n "$zone" ]] || fail "give --name and --zone."
if [[ -z "$version" ]]; then
  version="tpu-ubuntu2204-base"
  [[ "$pod" != true ]] || version="tpu-vm-tf-2.20.0-pod-pjrt"
fi

tpu=(gcloud compute tpus tpu-vm)
where=("--zone=$zone" ${project:+"--project=$project"})
archive="${TMPDIR:-/tmp}/jest_tf.tar.gz"

# on WORKER COMMAND: runs a shell command on one worker (0, 1, …) or on all.
on() {
  run "${tpu[@]}" ssh "$name" "${where[@]}" "--worker=$1" "--command=$2"
}

create() {
  local options=("--accelerator-type=$type" "--version=$version")
  [[ "$spot" != true ]] || options+=(--spot)
  run "${tpu[@]}" create "$name" "${where[@]}" "${options[@]}"
}

install() {
  run git -C "$ROOT" archive --format=tar.gz "--output=$archive" HEAD &&
    run "${tpu[@]}" scp "$archive" "$name:jest_tf.tar.gz" "${where[@]}" --worker=all &&
    on all "mkdir -p jest_tf && tar -xzf jest_tf.tar.gz -C jest_tf && jest_tf/launch/on_tpu_vm.sh install"
}

# On a slice of several hosts one process on worker 0 drives the TPU servers of all of them, and must
# not load the TPU library itself. On a single VM the process is its own server.
start() {
  local mount="" variables="" arguments=""
  [[ -z "$bucket" ]] || mount="jest_tf/launch/on_tpu_vm.sh mount_bucket ${bucket@Q} && "
  [[ "$pod" != true ]] || variables="TPU_NAME=$name TPU_LOAD_LIBRARY=0 "
  ((${#REST[@]} == 0)) || arguments=" ${REST[*]@Q}"
  on 0 "$mount${variables}jest_tf/launch/on_tpu_vm.sh start$arguments"
}

status() {
  run "${tpu[@]}" describe "$name" "${where[@]}" "--format=value(state)"
  on 0 "jest_tf/launch/on_tpu_vm.sh status"
}

logs() {
  on 0 "jest_tf/launch/on_tpu_vm.sh logs"
}

stop() {
  on 0 "jest_tf/launch/on_tpu_vm.sh stop"
}

delete() {
  run "${tpu[@]}" delete "$name" "${where[@]}" --quiet
}

# READY, PREEMPTED, …; MISSING when there is no such VM; UNKNOWN when gcloud could not say.
vm_state() {
  local answer
  if answer="$("${tpu[@]}" describe "$name" "${where[@]}" "--format=value(state)" 2>&1)"; then
    printf '%s\n' "$answer"
  elif [[ "$answer" == *NOT_FOUND* ]]; then
    printf 'MISSING\n'
  else
    printf 'UNKNOWN\n'
  fi
}

training_state() {
  "${tpu[@]}" ssh "$name" "${where[@]}" --worker=0 \
    "--command=cd jest_tf 2>/dev/null && launch/on_tpu_vm.sh status || echo not started" \
    2>/dev/null | tail -n 1 || printf 'UNKNOWN\n'
}

begin() {
  create && install && start
}

keep() {
  if [[ "$DRY_RUN" == true ]]; then
    begin
    printf '# then every %s s, until training has ended: status; after a preemption:\n' "$every"
    delete
    begin
    return
  fi
  while true; do
    case "$(vm_state)" in
      MISSING) begin || printf 'That failed (no capacity?); trying again.\n' ;;
      PREEMPTED | TERMINATED | STOPPED) delete || printf 'That failed; trying again.\n' ;;
      READY) look_after_training && return ;;
    esac
    sleep "$every"
  done
}

n_faults=0 started=0

start_counting() {
  started="$SECONDS"
  start
}

# Succeeds when training is done.
look_after_training() {
  local state
  state="$(training_state)"
  case "$state" in
    "ended 0")
      printf 'Training is done. The VM still runs and costs money: delete it when you have the results.\n'
      return 0
      ;;
    # Maintenance restarted the VM (killed), or asked training to stop (143).
    killed | "ended 143") start_counting ;;
    # Another host is gone (4), or an error that is not the user's (1). 2 and 3 come again.
    "ended 1" | "ended 4")
      ((SECONDS - started < 3600)) || n_faults=0
      n_faults=$((n_faults + 1))
      ((n_faults <= faults)) ||
        fail "training has $state for the ${n_faults}th time: see \`$0 logs\`. The VM still runs."
      printf 'Training has %s; starting it again (%d of %d).\n' "$state" "$n_faults" "$faults"
      start_counting
      ;;
    "not started") install && start ;; # the VM was made, but the start did not get that far
    ended*) fail "training has $state: see \`$0 logs\`. The VM still runs." ;;
  esac
  return 1
}

"$command"
