"""Learned optimizers beside tuned ones of Keras, on tasks they were not made for."""
