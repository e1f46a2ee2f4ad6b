"""Plain PyTorch: data, models, weights, training, measuring. Never imports ray."""
