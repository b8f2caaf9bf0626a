"""The ModelDeployment resource as pydantic models: the single source of the CRD's schema."""

GROUP = "modelramp.dev"
VERSION = "v1alpha1"
KIND = "ModelDeployment"
PLURAL = "modeldeployments"
API_VERSION = f"{GROUP}/{VERSION}"
