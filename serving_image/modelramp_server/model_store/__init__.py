"""Where models come from: an MLflow registry, or a folder; verified before anything loads them."""
