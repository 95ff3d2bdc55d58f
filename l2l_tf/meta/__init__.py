"""Meta-training: the inner loop, its gradients, and who trains whom."""
