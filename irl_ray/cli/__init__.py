"""Command lines: `rllib` (training, evaluation, resuming) and `irl-ray` (everything without Ray)."""
