"""The registry's share of the failures; the model's own stand in runtime/base.py. Reasons: docs/contract.md."""

from modelramp_server.runtime.base import ModelProblem


class RegistryUnavailable(ModelProblem):
    """The registry does not answer, answers rubbish, or the disk can't take what it sends."""

    reason = "RegistryUnavailable"


class ModelNotFound(ModelProblem):
    """The registry has no such model, version or alias."""

    reason = "ModelNotFound"
