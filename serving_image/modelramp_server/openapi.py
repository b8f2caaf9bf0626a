"""The OpenAPI 3.1 document of what this server serves, made from the application's own routes when it is asked for."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version as package_version
from typing import Any

from modelramp_server.local_model import LocalModel
from modelramp_server.protocol.tensors import DTYPES, TensorSpec

Schema = dict[str, Any]

_MODEL = "/v2/models/{model}"
_JSON, _TEXT, _NPY = "application/json", "text/plain", "application/x-npy"
_LARGEST_EXAMPLE = 256

# What a page tells, and the media type that it tells it in; by path, with the model's own written as {model}.
_PAGES: dict[str, tuple[str, str]] = {
    "/v2": ("The server: name, version, extensions of the protocol", _JSON),
    "/v2/health/live": ("Whether the server lives; true while its model loads", _JSON),
    "/v2/health/ready": ("Whether the server is ready for requests", _JSON),
    "/v2/repository/index": ("The models here: the one that is served", _JSON),
    _MODEL: ("The model's metadata: its inputs and outputs", _JSON),
    f"{_MODEL}/ready": ("Whether the model is ready for requests", _JSON),
    f"{_MODEL}/config": ("The model's configuration, as Triton's clients ask for it", _JSON),
    f"{_MODEL}/example": ("The input example logged with the model, as a body for /invocations", _JSON),
    "/health": ("Whether the server is ready for requests", _JSON),
    "/healthz": ("Whether the server lives; true while its model loads", _JSON),
    "/ready": ("Whether the server is ready for requests", _JSON),
    "/ping": ("Whether the server is ready for requests, as MLflow's clients ask", _JSON),
    "/version": ("The server's version", _TEXT),
    "/info": ("The server, its model, and how they fare", _JSON),
    "/model/info": ("The model: who it is, what runs it, what it takes and gives", _JSON),
    "/metrics": ("Prometheus series", _TEXT),
    "/openapi.json": ("This document", _JSON),
    "/docs": ("This document, to be read by people", "text/html"),
}
_INFERENCE = {
    "infer": "Infer, by the Open Inference Protocol V2",
    "invocations": "Infer, by MLflow's scoring protocol",
    "predict": "Infer from a file: a PNG or JPEG where the model declares images, npy, or JSON as for /invocations",
}
_REFUSALS = {
    "400": "The request is wrong; the message names the field",
    "408": "The body did not arrive in time",
    "413": "The body is over PAYLOAD_LIMIT, as it came or decompressed",
    "415": "The content type or coding is not served",
    "500": "The model failed on this input",
    "502": "The server that runs the model (UPSTREAM) can't be reached, or answers nonsense",
    "503": "Loading, draining or full: try again after Retry-After",
    "504": "Not answered within the request's budget",
}
_NUMBER = {"b": {"type": "boolean"}, "f": {"type": "number"}, "O": {"type": "string"}}


def document(local: LocalModel, pages: Mapping[str, Iterable[str]], inference: Mapping[str, str]) -> Schema:
    """OpenAPI 3.1.

    Args:
        pages: methods by path.
        inference: route (`infer`, `invocations`, `predict`) by path; POST only.
    """
    paths: Schema = {}
    for path, methods in pages.items():
        paths[path] = {method.lower(): _page(path, method, local) for method in methods}
    for path, route in inference.items():
        paths.setdefault(path, {})["post"] = _operation(route, local)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{local.name} on modelramp",
            "version": package_version("modelramp"),
            "description": "Errors are JSON: an object with `error`, a sentence that says what was wrong and where.",
        },
        "paths": paths,
        "components": {"schemas": {"Error": _object({"error": {"type": "string"}}, "error")}},
    }


def _page(path: str, method: str, local: LocalModel) -> Schema:
    summary, media = _PAGES[template(path, local)]
    responses: Schema = {
        "200": {"description": "As said", "content": {media: {"schema": _ANY if media == _JSON else _STRING}}}
    }
    responses["503"] = _error(_REFUSALS["503"])
    if path.endswith("/example"):
        responses["404"] = _error("The model was logged without one")
    return {"summary": summary, "operationId": f"{method.lower()} {path}", "responses": responses}


def template(path: str, local: LocalModel) -> str:
    """The path with the model's own (and its version's) written as {model}."""
    base = f"/v2/models/{local.name}"
    for own in (f"{base}/versions/{local.version}", base):
        if path == own or path.startswith(f"{own}/"):
            return _MODEL + path.removeprefix(own)
    return path


def _operation(route: str, local: LocalModel) -> Schema:
    inputs = local.model.inputs if local.model is not None else ()
    body, answer = _BODIES[route]
    return {
        "summary": _INFERENCE[route],
        "parameters": [_TIMEOUT, *_QUERIES.get(route, [])],
        "requestBody": {"required": True, "content": body(inputs)},
        "responses": {
            "200": {"description": "The answer", "content": {_JSON: {"schema": answer}, **_FORMS.get(route, {})}},
            **{status: _error(text) for status, text in (_REFUSALS | _FURTHER.get(route, {})).items()},
        },
    }


def _infer_body(inputs: tuple[TensorSpec, ...]) -> Schema:
    tensors = {"anyOf": [_tensor(spec) for spec in inputs]} if inputs else _tensor(None)
    schema = _object(
        {
            "id": _STRING,
            "inputs": {"type": "array", "items": tensors, "minItems": len(inputs) or 1, "maxItems": len(inputs) or 1},
            "outputs": {"type": "array", "items": _object({"name": _STRING}, "name")},
            "parameters": {"type": "object"},
        },
        "inputs",
    )
    example = {"inputs": [_example(spec) for spec in inputs]}
    return {_JSON: {"schema": schema} | ({"example": example} if inputs and _small(inputs) else {})}


def _tensor(spec: TensorSpec | None) -> Schema:
    values = {"type": "array"} if spec is None else {"type": "array", "items": _value(spec.datatype)}
    return _object(
        {
            "name": _STRING if spec is None else {"const": spec.name},
            "datatype": {"enum": list(DTYPES)} if spec is None else {"const": spec.datatype},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": values,
            "parameters": {"type": "object"},
        },
        "name", "datatype", "shape",
    )  # fmt: skip


def _invocations_body(inputs: tuple[TensorSpec, ...]) -> Schema:
    rows = {"type": "array", "minItems": 1}
    split = _object({"columns": {"type": "array"}, "data": rows, "index": {"type": "array"}}, "data")
    forms: dict[str, Schema] = {
        "dataframe_split": split,
        "dataframe_records": {**rows, "items": {"type": "object"}},
        "instances": rows,
        "inputs": {"type": ["array", "object"]},
    }
    schema = {"oneOf": [_object({form: value, "params": {"type": "object"}}, form) for form, value in forms.items()]}
    example = {"inputs": {spec.name: _nested(spec) for spec in inputs}}
    body: Schema = {_JSON: {"schema": schema} | ({"example": example} if inputs and _small(inputs) else {})}
    return body | {"text/csv": {"schema": _STRING}}


def _predict_body(inputs: tuple[TensorSpec, ...]) -> Schema:
    files = {media: {"schema": _STRING} for media in ("image/png", "image/jpeg", _NPY)}
    form = {"schema": _object({"file": {"type": "string", "format": "binary"}}, "file")}
    return {_JSON: _invocations_body(inputs)[_JSON], **files, "multipart/form-data": form}


def _small(inputs: Iterable[TensorSpec]) -> bool:
    return sum(_count(spec) for spec in inputs) <= _LARGEST_EXAMPLE


def _count(spec: TensorSpec) -> int:
    count = 1
    for size in spec.shape:
        count *= max(1, size)
    return count


def _example(spec: TensorSpec) -> Schema:
    shape = [max(1, size) for size in spec.shape]
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": [_zero(spec)] * _count(spec)}


def _nested(spec: TensorSpec) -> Any:
    value: Any = _zero(spec)
    for size in reversed(spec.shape):
        value = [value] * max(1, size)
    return value


def _zero(spec: TensorSpec) -> Any:
    return {"b": False, "f": 0.0, "O": ""}.get(DTYPES[spec.datatype].kind, 0)


def _value(datatype: str) -> Schema:
    return _NUMBER.get(DTYPES[datatype].kind, {"type": "integer"})


def _object(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _error(description: str) -> Schema:
    return {"description": description, "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}


_STRING: Schema = {"type": "string"}
_ANY: Schema = {}
_OUTPUT = _object({"name": _STRING, "datatype": _STRING, "shape": {"type": "array"}}, "name", "datatype", "shape")
_BODIES = {
    "infer": (
        _infer_body,
        _object({"model_name": _STRING, "outputs": {"type": "array", "items": _OUTPUT}}, "model_name", "outputs"),
    ),
    "invocations": (_invocations_body, _object({"predictions": _ANY}, "predictions")),
    "predict": (_predict_body, _object({"predictions": _ANY}, "predictions")),
}
_TIMEOUT: Schema = {
    "name": "x-request-timeout",
    "in": "header",
    "description": "Seconds that the client waits, if fewer than REQUEST_TIMEOUT",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def _query(name: str, description: str, **schema: object) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_QUERIES: dict[str, list[Schema]] = {
    "predict": [
        _query("output", "One output alone, by name; for image/png: mask or probabilities", type="string"),
        _query("overlay", "The mask over the picture: true, or an opacity up to 1", type=["boolean", "number"]),
        _query("class", "The class of a map of probabilities, by its number", type="integer", minimum=0),
    ]
}
_FORMS: dict[str, Schema] = {"predict": {"image/png": {"schema": _STRING}, _NPY: {"schema": _STRING}}}
_FURTHER = {
    "predict": {
        "406": "What Accept asks for can't be told of this model's outputs",
        "413": "The body is over PAYLOAD_LIMIT, or its picture over MAX_PIXELS",
        "415": "The content type is not served, or not what the bytes are",
    }
}
