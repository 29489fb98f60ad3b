#!/usr/bin/env bash
# One job on SLURM: Ray starts on every node of the allocation, the file runs on the first, Ray stops.
#   sbatch --nodes 2 --time 12:00:00 cluster/slurm.sh tuned_configs/ant_internal_cluster.yaml
# Arguments go to `rllib train file`. Run from the top of the repository, on a file system that all nodes see.
#SBATCH --job-name=irl_ray
#SBATCH --output=irl_ray_%j.log
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --mem=0
#SBATCH --exclusive  # Ray's stop ends every Ray of yours on a node
#SBATCH --signal=INT@120
set -euo pipefail

if [[ $# -eq 0 ]]; then
    echo "usage: sbatch [--nodes N] cluster/slurm.sh FILE.yaml [flags of rllib train file]" >&2
    exit 2
fi
# shellcheck source=/dev/null
[[ -f .venv/bin/activate ]] && . .venv/bin/activate

nodes=${SLURM_JOB_NUM_NODES:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes 1 --ntasks 1 --nodelist "$head" hostname --all-ip-addresses | tr ' ' '\n' | grep -m 1 -E '^[0-9]+\.')

# Everyone with an account on these nodes could reach the ports: the token, in a file that only you read, keeps them out.
[[ -s ~/.ray/auth_token ]] || ray get-auth-token --generate > /dev/null
export RAY_AUTH_MODE=token OMP_NUM_THREADS=1 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# Two minutes before the time is up `--signal` above interrupts the run, which saves a checkpoint; the same line with
# --resume carries it on. Ray's launcher must not hear the interrupt, or it would stop Ray before that.
srun --nodes "$nodes" --ntasks "$nodes" --cpu-bind=none --kill-on-bad-exit=1 \
    bash -c 'trap "" INT; exec "$@"' launcher \
    ray symmetric-run --address "$address:6379" --min-nodes "$nodes" \
    --num-cpus "$SLURM_CPUS_ON_NODE" --num-gpus "$gpus" --include-dashboard=false -- \
    rllib train file "$@" --ray-address auto
