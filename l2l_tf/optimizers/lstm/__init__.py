"""The LSTM of the learned optimizers: cell, network and back-propagation."""
