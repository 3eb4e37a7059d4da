#!/bin/bash
# One training run, or one film (COMMAND=generate), over all hosts of a Cloud TPU pod slice: started on each by ssh, from any machine with gcloud.
#
#   TPU=my-v5p-64 ZONE=us-east5-a launch/tpu_pod.sh --config configs/wan.py:14b --config.out=/mnt/shared/runs/14b
#
# * Before: this repository in the same folder of every host (REPO, ~/causalcine_jax), with .venv made there: make, then
#   .venv/bin/pip install 'jax[tpu]'. `gcloud compute tpus tpu-vm ssh $TPU --zone=$ZONE --worker=all --command=...` does it on all hosts at once.
# * config.out and the data lie on storage that all hosts mount (Filestore, or a bucket by gcsfuse).
# * The run lives as long as the connections: start it in tmux on a machine that stays. To save and stop it: the same ssh with
#   --worker=0 --command='pkill -TERM -f launch/train.py'. The same command goes on with it.
set -eu

# jax finds hosts and ids in the TPU's metadata; that the port is set tells the run that it is one of several.
PORT=${JAX_COORDINATOR_PORT:-8482}
quoted=$(printf ' %q' "$@")
exec gcloud compute tpus tpu-vm ssh "${TPU:?the name of the TPU}" --zone="${ZONE:?its zone}" --worker=all \
  --command="cd ${REPO:-\$HOME/causalcine_jax} && JAX_COORDINATOR_PORT=$PORT .venv/bin/python launch/${COMMAND:-train}.py$quoted"
