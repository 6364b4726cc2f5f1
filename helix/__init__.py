"""helix: pretrain hybrid language models on a few GPUs or a SLURM cluster."""

__version__ = "0.1.0"
