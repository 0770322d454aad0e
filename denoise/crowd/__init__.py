"""Categorical labels: who is right, and how far each annotator can be trusted."""
