"""What stands on the wire: Open Inference Protocol V2, MLflow's scoring JSON, and errors."""
