#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice: docs/launch/tpu_vm.sh NAME ZONE WORKDIR CONFIG [OVERRIDES...]
# Run it from the checkout on your own machine; started again, it continues.
set -euo pipefail
if [ $# -lt 4 ]; then
  echo "usage: $0 NAME ZONE gs://BUCKET/RUN configs/NAME.py [--config.field=value ...]" >&2
  exit 2
fi
name=$1 zone=$2 workdir=$3 config=$4
shift 4

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

gcloud compute tpus tpu-vm scp --recurse --zone="$zone" --worker=all . "$name:palmette"
on_all_hosts "cd palmette && python3 -m venv .venv && .venv/bin/pip install --quiet --editable '.[tpu]'"
command=$(printf '%q ' .venv/bin/python -m train --config="$config" --workdir="$workdir" --config.platform=tpu "$@")
on_all_hosts "cd palmette && $command"
