"""Predictions without a server: in Python, and for whole files and folders."""
