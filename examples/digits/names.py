"""Names that the models, the registry, the cluster and the clients share."""

MODEL = "digits"
ALIAS = "prod"
INPUT, OUTPUT = "image", "digit"
OBJECT = "digits"
NAMESPACE = "modelramp-demo"
