"""V2 gRPC: the same model, queue, limits and relay as REST, on a port of its own. Imported only if asked for."""
