"""Learning curves of optimizers under one protocol, and diagnosis of optimizers."""
