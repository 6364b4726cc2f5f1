"""Offline evaluations: a checkpoint or a text in, figures out."""
