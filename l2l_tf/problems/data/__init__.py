"""The only code that reads a disk or a network for data."""
