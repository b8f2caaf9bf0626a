"""One thread owns the model and pulls batches: what queued during the last forward is the next batch."""
