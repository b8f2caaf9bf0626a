"""The Modelramp operator: a registry alias moves, and the version it names is proven and promoted, or taken back."""
