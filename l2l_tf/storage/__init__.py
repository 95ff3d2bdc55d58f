"""Files: written whole or not at all, checkpoints, exports, logs."""
