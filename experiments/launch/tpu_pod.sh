#!/usr/bin/env bash
# A run of clujax on all hosts of a Cloud TPU slice: ask for it, wait, install, run, fetch the results, give it back.
#
#   PROJECT=my-project ZONE=us-west4-a SHARE=10.0.0.2:/share \
#     experiments/launch/tpu_pod.sh all configs/unlearning/cifar10.py [--key=value ...]
#
# Each step can be given alone: create, wait, install, run, fetch, delete. --dry-run first prints the commands of a step and
# runs none. In `all`, the slice is given back whatever happens, unless KEEP=1.
#
# Settings (environment):
#   PROJECT, ZONE  of the TPU
#   SHARE          HOST:/PATH of a network file system (NFS, e.g. Filestore) that all hosts reach: it holds the workdir
#   NAME           of the queued resource, the node and the run's directory        (clujax)
#   TYPE, RUNTIME  accelerator and software version                                (v5litepod-16, v2-alpha-tpuv5-lite)
#   SPOT=1         a cheaper slice that may be taken away; the run goes on in the next one
#   PYTHON         version for the hosts                                           (3.12)
#   ATTEMPTS       how often `run` is given again when it fails                    (3)
set -euo pipefail

NAME=${NAME:-clujax} TYPE=${TYPE:-v5litepod-16} RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
PYTHON=${PYTHON:-3.12} ATTEMPTS=${ATTEMPTS:-3} MOUNT=/mnt/clujax

dry=
if [[ ${1:-} == --dry-run ]]; then
  dry=1
  shift
fi
step=${1:-}
config=${2:-}
overrides=("${@:3}")

fail() {
  echo "tpu_pod.sh: $1" >&2
  exit 2
}

go() { # says a command, and carries it out unless this is a dry run
  printf '%q ' "$@"
  echo
  [[ -n $dry ]] || "$@"
}

everywhere() { go gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command="$1"; }

create() {
  local spot=()
  [[ -z ${SPOT:-} ]] || spot=(--spot)
  go gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${spot[@]}"
}

await() {
  local ask=(gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)')
  go "${ask[@]}"
  [[ -z $dry ]] || return 0
  local state silent=0
  until state=$("${ask[@]}") && [[ $state == ACTIVE ]]; do
    echo "$(date +%T) $NAME: ${state:-no answer}"
    case $state in
      FAILED | SUSPENDED | SUSPENDING) fail "$NAME is $state; delete it and create it again" ;;
      "") ((++silent < 20)) || fail "gcloud did not answer 20 times" ;;
    esac
    sleep 30
  done
}

install() {
  local archive
  archive=$(mktemp -d)/clujax.tar.gz
  go git archive --format=tar.gz --output="$archive" HEAD
  go gcloud compute tpus tpu-vm scp "$archive" "$NAME:clujax.tar.gz" "${where[@]}" --worker=all
  everywhere "mkdir -p clujax && tar -xzf clujax.tar.gz -C clujax && cd clujax \
&& python3 -m pip install --quiet --user uv && python3 -m uv venv --clear --python $PYTHON .venv \
&& python3 -m uv pip install --python .venv '.[tpu,data]'"
  everywhere "sudo apt-get install -y -q nfs-common && sudo mkdir -p $MOUNT \
&& { mountpoint -q $MOUNT || sudo mount -t nfs $SHARE $MOUNT; } && sudo mkdir -p -m 777 $MOUNT/$NAME"
}

run() {
  [[ -n $config ]] || fail "give a config, for example configs/unlearning/cifar10.py"
  local words attempt
  words=$(printf '%q ' .venv/bin/clujax run "$config" --workdir "$MOUNT/$NAME" "${overrides[@]}")
  for ((attempt = 1; ; attempt++)); do
    # The hosts find one another: jax asks the metadata server. The same command goes on from the last whole checkpoint.
    if everywhere "cd clujax && $words"; then return; fi
    ((attempt < ATTEMPTS)) || fail "the run failed $attempt times; its output is above"
    echo "attempt $attempt failed; again" >&2
  done
}

fetch() {
  go mkdir -p runs
  go gcloud compute tpus tpu-vm scp --recurse "$NAME:$MOUNT/$NAME" runs/ "${where[@]}" --worker=0
}

delete() { go gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet; }

case $step in create | wait | install | run | fetch | delete | all) ;; *)
  fail "give a step: create, wait, install, run CONFIG, fetch, delete, or all CONFIG; before it --dry-run to look only"
  ;;
esac
for name in PROJECT ZONE SHARE; do
  [[ -n ${!name:-} ]] || fail "set $name (see the head of this file)"
done
where=(--zone="$ZONE" --project="$PROJECT")

case $step in
  wait) await ;;
  all)
    [[ -n $config ]] || fail "give a config, for example configs/unlearning/cifar10.py"
    # Before create, since a request that is cut off may have been granted.
    [[ -n ${KEEP:-} ]] || trap delete EXIT
    create
    await
    install
    run
    fetch
    ;;
  *) "$step" ;;
esac
