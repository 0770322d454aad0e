"""Weighted training: TRL's own trainers, taught to read a soft label beside each pair."""
