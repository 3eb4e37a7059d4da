#!/bin/bash
# One training run, or one film (COMMAND=generate), over all hosts of a Cloud TPU pod slice.
# Starts it on each host by ssh, from any machine with gcloud.
#
#   TPU=my-v5p-64 ZONE=us-east5-a launch/tpu_pod.sh \
#     --config configs/wan.py:14b --config.init=/mnt/shared/models/wan-14b \
#     --config.data.store=/mnt/shared/films/train --config.out=/mnt/shared/runs/14b \
#     --config.seq=8 --config.optim.accumulation=16 --compile_cache /mnt/shared/programs
#
# * First put this repository into the same folder of every host (REPO, ~/causalcine_jax). Make .venv
#   there: make .venv/.core, then .venv/bin/pip install -c constraints.txt -e '.[tpu]'. This does it on all hosts at once:
#   `gcloud compute tpus tpu-vm ssh $TPU --zone=$ZONE --worker=all --command=...`
# * config.out and the data lie on storage that all hosts mount: Filestore, or a bucket by gcsfuse.
#   A checkpoint is complete when its folder is renamed, which gcsfuse can do only in buckets with a
#   hierarchical namespace.
# * The run ends with its connections, so start it in tmux on a machine that stays up. To save and
#   stop it, use the same ssh with --worker=0 --command='pkill -TERM -f launch/train.py'. The same
#   launch command resumes it.
set -eu

# jax reads hosts and ids from the TPU's metadata. The set port marks a run of several processes.
PORT=${JAX_COORDINATOR_PORT:-8482}
quoted=${*:+$(printf ' %q' "$@")}
repo=${REPO:+$(printf %q "$REPO")}
exec gcloud compute tpus tpu-vm ssh "${TPU:?the name of the TPU}" --zone="${ZONE:?its zone}" --worker=all \
  --command="cd ${repo:-\$HOME/causalcine_jax} && JAX_COORDINATOR_PORT=$PORT .venv/bin/python launch/${COMMAND:-train}.py$quoted"
