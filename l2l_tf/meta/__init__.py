"""Meta-training: the inner loop, meta-gradients, and the trainer."""
