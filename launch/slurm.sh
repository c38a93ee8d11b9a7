#!/usr/bin/env bash
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --time=24:00:00
# Train on several GPU nodes:  sbatch launch/slurm.sh --config=configs/x.py --workdir=/shared/runs/x
# One process per node drives all its GPUs; JAX finds the other processes through Slurm.
set -euo pipefail
export JAXFT_DISTRIBUTED=1
# Under Slurm, JAX assigns one GPU to each process by default.
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((${SLURM_GPUS_ON_NODE:-8} - 1)))
export JAX_LOCAL_DEVICE_IDS
srun bash launch/local.sh -- "$@"
