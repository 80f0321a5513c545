"""The torch engine: checkpoints, precisions and speed. `forward` holds the ways to compute a forward pass."""
