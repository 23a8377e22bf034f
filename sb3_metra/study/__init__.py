"""Studies: many runs from one file, on this machine, on Ray or on SLURM, and their results."""
