#!/bin/bash
# One training run, or one film, over the GPUs of several nodes, under Slurm: one process per GPU.
#
#   sbatch --nodes=8 launch/slurm.sh --config configs/wan.py:14b \
#     --config.init=/shared/models/wan-14b --config.data.store=/shared/films/train \
#     --config.out=/shared/runs/14b --config.seq=8 --config.optim.accumulation=8 \
#     --compile_cache /shared/programs
#   COMMAND=generate sbatch --nodes=1 launch/slurm.sh --story story.yaml \
#     --model models/14b --out /shared/films/story
#
# * Submit it from the repository's folder. All nodes must see it, config.out and the data.
# * Set the GPUs per node here or on sbatch's command line, with both numbers equal. Give no
#   --gpus-per-task or --gpu-bind: each process must see all GPUs of its node. jax selects the one
#   of its SLURM_LOCALID.
# * Films shared by several GPUs (config.seq) should share a node: 2, 4 or 8 of 8.
# * SIGTERM makes the run save and stop, with exit code 75. Slurm sends it twenty minutes before the time is up
#   (--signal): a step in progress ends first, then the save must fit (14B: 229 GB). It also sends it on preemption. Slurm restarts a preempted run (--requeue). Otherwise the same
#   command resumes it.
#SBATCH --job-name=causalcine
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@1200
#SBATCH --requeue
#SBATCH --open-mode=append

# jax reads the first node, the process count and the process id from srun's variables. The port
# must be free on the first node.
export JAX_COORDINATOR_PORT=${JAX_COORDINATOR_PORT:-$((20000 + ${SLURM_JOB_ID:?start it by sbatch} % 10000))}

# Since Slurm 22.05 srun no longer takes --cpus-per-task from sbatch.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-8}

# A failed process ends the others, which would otherwise wait for it.
exec srun --kill-on-bad-exit=1 .venv/bin/python "launch/${COMMAND:-train}.py" "$@"
