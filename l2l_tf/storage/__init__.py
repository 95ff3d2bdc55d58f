"""Checkpoints, exports and logs, in files that are written whole or not at all."""
