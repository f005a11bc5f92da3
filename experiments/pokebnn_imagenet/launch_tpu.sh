#!/usr/bin/env bash
# Trains one run on a Cloud TPU slice until it is finished: creates the slice,
# installs jbin on every host, trains, and after a preemption does it all again;
# training goes on from the newest checkpoint in the bucket.
#
#   PROJECT=my-project BUCKET=my-bucket DATA_SOURCE=gs://my-data/tfds \
#   experiments/pokebnn_imagenet/launch_tpu.sh \
#     --config=configs/resnet50_imagenet.py:w8a8 --workdir=/mnt/jbin/teacher
#
# The arguments are those of `jbin train`. Each variable below can be set in the
# environment. DRY_RUN=1, or --dry_run as the first argument, prints the
# commands of one round and runs nothing.
set -euo pipefail

# --- Variables ----------------------------------------------------------------
PROJECT="${PROJECT:-}"
# The Cloud project. Needed.
ZONE="${ZONE:-us-central2-b}"
TPU_NAME="${TPU_NAME:-jbin}"
# Of the slice and of its place in the queue.
ACCELERATOR="${ACCELERATOR:-v4-64}"
# Type and size; batch_size must be a multiple of its number of devices.
RUNTIME="${RUNTIME:-tpu-ubuntu2204-base}"
# System image that fits the type.
SPOT="${SPOT:-1}"
# 1: spot capacity, cheaper, may be preempted; 0: on demand. Queued either way.
BUCKET="${BUCKET:-}"
# Name of the bucket for workdirs. Needed. It must have a hierarchical
# namespace, since a checkpoint is committed by renaming its folder.
MOUNT="${MOUNT:-/mnt/jbin}"
# Where each host mounts the bucket; --workdir must lie in it.
DATA_SOURCE="${DATA_SOURCE:-}"
# gs:// address of prepared data sets, copied to each host; empty: DATA_DIR is
# there already.
DATA_DIR="${DATA_DIR:-/dev/shm/tensorflow_datasets}"
# TFDS_DATA_DIR of each host. ImageNet takes 150 GB; /dev/shm is memory.
INSTALL_GCSFUSE="${INSTALL_GCSFUSE:-sudo apt-get -qq install -y gcsfuse}"
# How a host gets gcsfuse if its image lacks it; its documentation names the
# package source to add first.
REPOSITORY="${REPOSITORY:-https://github.com/jbin-dev/jbin}"
REVISION="${REVISION:-main}"
# Branch, tag or commit.
PYTHON_VERSION="${PYTHON_VERSION:-3.12}"
PAUSE="${PAUSE:-60}"
# Seconds between looks at the queue, and before another try.
MAX_FAILURES="${MAX_FAILURES:-3}"
# Failures in a row, without a preemption, after which to give up.
KEEP="${KEEP:-0}"
# 1: leave the slice running (and billed) at the end.
DRY_RUN="${DRY_RUN:-0}"

# --- Arguments ----------------------------------------------------------------
say() {
  echo "launch_tpu.sh: $*" >&2
}

die() {
  say "$@"
  exit 2
}

if [[ "${1:-}" == --dry_run ]]; then
  DRY_RUN=1
  shift
fi
[[ -n "$PROJECT" ]] || die "set PROJECT to the Cloud project"
[[ -n "$BUCKET" ]] || die "set BUCKET to the name of the bucket for workdirs"
WORKDIR=""
for argument in "$@"; do
  case "$argument" in
    --workdir=*) WORKDIR="${argument#--workdir=}" ;;
  esac
done
[[ "$WORKDIR" == "$MOUNT"/* ]] ||
  die "--workdir must lie in $MOUNT, where the bucket is; got '$WORKDIR'"
printf -v ARGUMENTS ' %q' "$@"

# --- Parts --------------------------------------------------------------------
WHERE=("--project=$PROJECT" "--zone=$ZONE")

failures=0

# Gives up after too many failures in a row that no preemption explains.
count_failure() {
  failures=$((failures + 1))
  if ((failures >= MAX_FAILURES)); then
    say "failed $failures times in a row without a preemption; the slice," \
      "if there is one, is kept: look there, or delete it"
    exit 1
  fi
  sleep "$PAUSE"
}

run() {
  if [[ "$DRY_RUN" == 1 ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

on_worker() { # WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${WHERE[@]}" \
    "--worker=$1" "--command=$2"
}

slice_state() {
  gcloud compute tpus tpu-vm describe "$TPU_NAME" "${WHERE[@]}" \
    "--format=value(state)" 2>/dev/null || echo ABSENT
}

queue_state() {
  gcloud compute tpus queued-resources describe "$TPU_NAME" "${WHERE[@]}" \
    "--format=value(state.state)" 2>/dev/null || echo ABSENT
}

delete_slice() {
  run gcloud compute tpus queued-resources delete "$TPU_NAME" "${WHERE[@]}" \
    --force --quiet
}

request_slice() {
  local tier=()
  if [[ "$SPOT" == 1 ]]; then
    tier=(--spot)
  fi
  run gcloud compute tpus queued-resources create "$TPU_NAME" "${WHERE[@]}" \
    "--node-id=$TPU_NAME" "--accelerator-type=$ACCELERATOR" \
    "--runtime-version=$RUNTIME" ${tier[@]+"${tier[@]}"}
}

# Returns when there is a slice: the one that is there, or a new one after its
# turn in the queue. A request that this script left in the queue is kept.
ensure_slice() {
  local state
  while true; do
    state="$(slice_state)/$(queue_state)"
    say "slice/queue: $state"
    case "$state" in
      READY/*) return 0 ;;
      */ABSENT) request_slice || count_failure ;;
      PREEMPTED/* | TERMINATED/* | */FAILED | */SUSPENDED)
        delete_slice || count_failure
        ;;
      *) sleep "$PAUSE" ;;
    esac
  done
}

# What every host does before training; doing it twice is quick.
set_up() {
  local copy=":"
  if [[ -n "$DATA_SOURCE" ]]; then
    copy="mkdir -p '$DATA_DIR' && gcloud storage rsync --recursive \
'$DATA_SOURCE' '$DATA_DIR'"
  fi
  on_worker all "set -eu
if ! command -v gcsfuse >/dev/null; then
  $INSTALL_GCSFUSE
fi
sudo mkdir -p '$MOUNT'
sudo chown \"\$(id -u):\$(id -g)\" '$MOUNT' || true
mountpoint -q '$MOUNT' || gcsfuse --metadata-cache-ttl-secs=0 '$BUCKET' '$MOUNT'
test -d ~/jbin || git clone --quiet '$REPOSITORY' ~/jbin
git -C ~/jbin fetch --quiet origin '$REVISION'
git -C ~/jbin checkout --quiet --detach FETCH_HEAD
test -x ~/.local/bin/uv || python3 -m pip install --quiet --user uv
test -d ~/venv || ~/.local/bin/uv venv --quiet --python '$PYTHON_VERSION' ~/venv
~/.local/bin/uv pip install --quiet --python ~/venv/bin/python \
  --editable ~/jbin'[tpu]'
$copy"
}

# A connection that broke may have left a run alive; it gets half a minute to
# save. (The brackets keep the pattern from finding this command itself.)
stop_training() {
  on_worker all "pkill -TERM -f '[m] jbin train' && sleep 30 &&
pkill -KILL -f '[m] jbin train' || true"
}

train() {
  on_worker all "cd ~/jbin && TFDS_DATA_DIR='$DATA_DIR' \
~/venv/bin/python -m jbin train --distributed$ARGUMENTS"
}

# The page is the last file that a run writes. One that SIGTERM stopped has none,
# though it exits with 0.
is_finished() {
  on_worker 0 "test -f '$WORKDIR/report/index.html'"
}

# --- Rounds -------------------------------------------------------------------
if [[ "$DRY_RUN" == 1 ]]; then
  request_slice
  set_up
  stop_training
  train
  is_finished
  delete_slice
  exit 0
fi

while true; do
  ensure_slice
  if set_up && stop_training; then
    if is_finished || { train && is_finished; }; then
      break
    fi
  fi
  if [[ "$(slice_state)" == READY ]]; then
    count_failure
  else
    failures=0
    say "preempted; goes on with a new slice"
    sleep "$PAUSE"
  fi
done
say "finished: $WORKDIR"
if [[ "$KEEP" != 1 ]]; then
  delete_slice
fi
