"""Jobs on SLURM: the launcher and the environment it hands to each rank. Empty until its issue is built."""
