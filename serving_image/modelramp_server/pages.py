"""Pages that tell a person or a client what is served: `/info`, `/model/info`, the V2 model configuration."""

from importlib.metadata import version as package_version

from modelramp_server.exchange import Answer, json_answer
from modelramp_server.local_model import LocalModel
from modelramp_server.protocol.tensors import TensorSpec


def info(local: LocalModel, draining: bool) -> Answer:
    """The server, its model, and how they fare. Answers while the model loads."""
    waits = local.waits()
    state = "draining" if draining else "waiting" if waits else "loading" if local.model is None else "ready"
    document: dict[str, object] = {
        "name": "modelramp",
        "version": package_version("modelramp"),
        "state": state,
        "model": _identity(local),
    }
    if waits:
        document["reason"] = waits
    if local.model is not None:
        document |= {"runtime": local.model.runtime, "device": local.model.device}
    return json_answer(200, document)


def model_info(local: LocalModel) -> Answer:
    """The model: who it is, what runs it, what it takes and gives.

    Raises:
        NotReady: it is loading.
    """
    model = local.loaded()
    return json_answer(
        200,
        {
            **_identity(local),
            "runtime": model.runtime,
            "device": model.device,
            "batch_rows": model.batch_rows,
            "inputs": [spec.as_metadata() for spec in model.inputs],
            "outputs": [spec.as_metadata() for spec in model.outputs],
            "images": local.images,
            "params": [
                {"name": spec.name, "type": spec.kind, "list": spec.is_list, "default": spec.default}
                for spec in model.params.specs
            ],
        },
    )


def model_config(local: LocalModel) -> Answer:
    """Triton's model configuration, as far as it means something here. `max_batch_size` 0 says that shapes are whole,
    rows included, as in the metadata.

    Raises:
        NotReady: the model is loading.
    """
    model = local.loaded()

    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
        return [{"name": spec.name, "data_type": _config_type(spec.datatype), "dims": spec.shape} for spec in specs]

    return json_answer(
        200,
        {
            "name": local.name,
            "platform": model.runtime,
            "backend": model.runtime,
            "max_batch_size": 0,
            "input": tensors(model.inputs),
            "output": tensors(model.outputs),
        },
    )


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def _identity(local: LocalModel) -> dict[str, str]:
    return {"name": local.name, "version": local.version, "revision": local.revision}
