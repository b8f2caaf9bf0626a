"""What runs a model: one module per native format, chosen from the MLmodel file."""
