"""Training: schedule and optimizer below, engine, checkpoints, metrics and the trainer above."""
