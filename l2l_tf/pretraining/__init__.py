"""The pretrained optimizers of the package, and how they were trained."""
