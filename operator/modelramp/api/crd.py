"""The CustomResourceDefinition, from the pydantic models. ``python -m modelramp.api.crd`` prints it.

pydantic speaks JSON Schema 2020-12; a CRD takes OpenAPI v3 "structural" schemas: no ``$ref``, no ``anyOf`` with null,
no titles, and every object says ``type: object`` (KEP-1693 and the apiextensions documentation).
"""

import sys
from typing import Any

import yaml
from pydantic import BaseModel

from modelramp.api import GROUP, KIND, PLURAL, VERSION
from modelramp.api.base import cel
from modelramp.api.spec import Spec
from modelramp.api.status import Status

Schema = dict[str, Any]

PRINTER_COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0, "Whether the stable revision serves."),
    ("Stable", "integer", ".status.stable.version", 0, "Registry version that serves."),
    ("Candidate", "integer", ".status.candidate.version", 0, "Registry version being proven."),
    ("Weight", "integer", ".status.traffic.weight", 0, "Percent of requests given to the candidate."),
    ("Phase", "string", ".status.phase", 0, "Where the rollout stands."),
    ("Reason", "string", ".status.reason", 0, "Why it stands there."),
    ("Age", "date", ".metadata.creationTimestamp", 0, ""),
    ("Revision", "string", ".status.stable.revision", 1, "Stable revision."),
    ("Message", "string", ".status.message", 1, "The reason in a sentence."),
)
NAME_RULES = cel(
    (
        "self.metadata.name.size() <= 50 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name also names Services: at most 50 characters of a-z, 0-9 and '-', starting with a letter",
    )
)


def structural(schema: Schema, definitions: Schema) -> Schema:
    """One JSON Schema node as a structural schema: references resolved, nullable unions unwrapped, titles gone."""
    if "$ref" in schema:
        resolved = definitions[schema["$ref"].rsplit("/", 1)[-1]]
        extras = {key: value for key, value in schema.items() if key != "$ref"}
        return structural({**resolved, **extras}, definitions)
    if "anyOf" in schema:
        choices = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
        if len(choices) != 1:
            raise ValueError(f"a CRD cannot say this union: {schema}")
        extras = {key: value for key, value in schema.items() if key != "anyOf" and (key, value) != ("default", None)}
        return structural({**choices[0], **extras}, definitions)
    return {key: _node(key, value, definitions) for key, value in schema.items() if key not in ("title", "$defs")}


def _node(key: str, value: Any, definitions: Schema) -> Any:
    if key == "properties":
        return {name: structural(child, definitions) for name, child in value.items()}
    if key in ("items", "additionalProperties") and isinstance(value, dict):
        return structural(value, definitions)
    return value


def _openapi_bounds(schema: Any) -> Any:
    """JSON Schema's numeric exclusive bounds as OpenAPI v3 writes them: a bound and a flag."""
    if isinstance(schema, list):
        return [_openapi_bounds(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _openapi_bounds(value) for key, value in schema.items()}
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(result.get(exclusive), int | float) and not isinstance(result[exclusive], bool):
            result[bound], result[exclusive] = result[exclusive], True
    return result


def schema_of(model: type[BaseModel]) -> Schema:
    """The structural schema of a model, under the names used on the wire, with defaults as they are written there."""
    raw = model.model_json_schema(by_alias=True, mode="serialization")
    validation = model.model_json_schema(by_alias=True, mode="validation")
    raw["required"] = validation.get("required", [])
    definitions = {
        name: {**definition, "required": validation["$defs"][name].get("required", [])}
        for name, definition in raw.get("$defs", {}).items()
        if "properties" in definition
    } | {name: definition for name, definition in raw.get("$defs", {}).items() if "properties" not in definition}
    schema: Schema = _tidy(_openapi_bounds(structural(raw, definitions)))
    return schema


def _tidy(schema: Any) -> Any:
    """Drops empty ``required`` lists and nulls (within defaults too), which a CRD has no use for."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _tidy(value) for key, value in schema.items() if value is not None and (key, value) != ("required", [])
    }


def crd() -> Schema:
    """The whole CustomResourceDefinition object."""
    spec = schema_of(Spec)
    status = schema_of(Status) | {"default": {"observedGeneration": -1}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["mdep"],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.scaling.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [_column(*column) for column in PRINTER_COLUMNS],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A model from a registry, served; and the way of its next version there.",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": status,
                            },
                            **NAME_RULES,
                        }
                    },
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, priority: int, description: str) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    if description:
        column["description"] = description
    if priority:
        column["priority"] = priority
    return column


def main() -> None:
    yaml.safe_dump(crd(), sys.stdout, sort_keys=False, width=110)


if __name__ == "__main__":
    main()
