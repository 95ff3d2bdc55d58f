"""How optimizers do: learning curves under one protocol, and what they show."""
