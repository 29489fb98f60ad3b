"""The supervised phases: configuration, loss, step and gates of each; plain PyTorch."""
