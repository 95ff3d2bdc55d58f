"""Learning curves of optimizers under one protocol, and what optimizers do."""
