"""The demo: four versions of a digit classifier, and what becomes of each when an alias names it."""
