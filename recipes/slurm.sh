#!/bin/bash
# A SLURM allocation as one Ray cluster, and a collection on it: sbatch recipes/slurm.sh
# The store is on a file system that all nodes share, or on S3. The same command again goes on where this one stopped.
#SBATCH --job-name=mctrace
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:INT@120
set -euo pipefail

STORE=${STORE:?set STORE to a shared folder or s3://bucket/folder}
CORPUS=${CORPUS:?set CORPUS to a folder that this node reads}
MODEL=${MODEL:?set MODEL to a hub id, or a folder at the same path on every node}
PORT=${PORT:-6379}
head=$(hostname --ip-address | cut -d' ' -f1)

# The nodes of a cluster need one secret; this one lives as long as the job.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

# A Ray node per machine; srun ends them with the job. The first has the head.
srun --export=ALL bash -c "
  if [ \"\$SLURM_PROCID\" = 0 ]; then exec ray start --head --port=$PORT --block
  else until ray status --address=$head:$PORT > /dev/null 2>&1; do sleep 2; done
    exec ray start --address=$head:$PORT --block; fi" &
until ray status --address="$head:$PORT" > /dev/null 2>&1; do sleep 2; done

mctrace collect --store "$STORE" --corpus "$CORPUS" --model "$MODEL" \
  --ray-address "$head:$PORT" --actors auto --log-dir "logs/$SLURM_JOB_ID" "$@" &
collect=$!
trap 'kill -INT "$collect"; wait "$collect"' INT
wait "$collect"
