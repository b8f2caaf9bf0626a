"""The relay: stable's pods hand a share of the requests to the candidate, and answer themselves when it doesn't."""
