"""UPSTREAM: another server (Triton, as a rule) runs the model, and this one stands before it in its own model's place.

Requests come here as they would to a model in this process: decoded, and checked against what the upstream declares. So
all protocols, the relay and every counter are the same. The upstream gets them one by one, as V2 REST with raw tensors,
many at once; batching is its own affair.
"""
