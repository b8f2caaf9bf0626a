"""What the server tells about itself: the series of docs/contract.md."""
