"""Learned optimizers for TensorFlow 2, Sonnet 2 and Keras 3."""
