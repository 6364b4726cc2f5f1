"""Jobs on SLURM: the launcher, and the environment that it hands to each rank."""
