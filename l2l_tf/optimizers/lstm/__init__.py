"""The LSTM of the learned optimizers: its cell, network and back-propagation."""
