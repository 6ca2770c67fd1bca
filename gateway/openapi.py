"""What the routes say of themselves in the OpenAPI document: bodies of several types, and every failure."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from gateway.examples import ANSWERED, SENT
from gateway.problems import PROBLEM_JSON, TITLES
from gateway.shapes import Problem

REF = "#/components/schemas/{model}"
_TEXT = {"type": "string"}
_BINARY = {"type": "string", "format": "binary"}
# What every operation with a key may answer.
COMMON = (401, 403, 422, 429)
SPENDING = (400, 402, 404, 408, 409, 413, 415, 500, 503, 507)
PARAMETERS_IN_QUERY = ("model", "img_size", "tile_px", "confidence", "classes", "format", "annotated", "name")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The failures that an operation documents."""
    return {
        status: {
            "description": TITLES.get(status, "Error"),
            "content": {PROBLEM_JSON: {"schema": {"$ref": REF.format(model="Problem")}}},
            **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status in (429, 503) else {}),
        }
        for status in sorted({*COMMON, *statuses})
    }


def alternatives(description: str, model: type[BaseModel], **content_types: dict[str, Any]) -> dict[int | str, Any]:
    """A successful answer with one shape in JSON and others (given as `text_csv=…`) beside it."""
    as_json = [{"$ref": REF.format(model=one)} for one in (model.__name__, "CocoOut")]
    content: dict[str, Any] = {"application/json": {"schema": {"anyOf": as_json}}}
    content |= {name.replace("_", "/", 1): {"schema": schema} for name, schema in content_types.items()}
    return {200: {"description": description, "content": content}}


# One event of a stream.
EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string", "enum": ["progress", "finished"]},
        "data": {"type": "string", "description": "The job as JSON."},
    },
}
FORMATS: dict[str, dict[str, Any]] = {"text_csv": _TEXT, "text_plain": _TEXT}


def body(model: type[BaseModel], *, one: bool = False, many: bool = False) -> dict[str, Any]:
    """The request body: JSON; a form with `file` or `files`; and for one picture the bare picture."""
    properties = {
        name: schema
        for name, schema in model.model_json_schema(ref_template=REF)["properties"].items()
        if name not in ("images", "image", "image_url")
    }
    form: dict[str, Any] = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    if one:
        form["properties"]["file"] = _BINARY
    if many:
        form["properties"]["files"] = {"type": "array", "items": _BINARY}
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": REF.format(model=model.__name__)}},
        "multipart/form-data": {"schema": form},
    }
    if one:
        content |= {kind: {"schema": _BINARY} for kind in ("image/jpeg", "image/png")}
    extra: dict[str, Any] = {"requestBody": {"required": True, "content": content}}
    if one:
        extra["parameters"] = [
            {
                "name": name,
                "in": "query",
                "required": False,
                "schema": properties[name],
                "description": "For a bare picture; a form or JSON may have it in its body.",
            }
            for name in PARAMETERS_IN_QUERY
            if name in properties
        ]
    return extra


def small_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """A request body that is JSON only."""
    content = {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}
    return {"requestBody": {"required": required, "content": content}}


def idempotency_header() -> dict[str, Any]:
    """The header that makes a spending request safe to repeat."""
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        "description": "One key, one effect, the same answer: send the same one when you try again.",
    }


def spending(model: type[BaseModel], *, one: bool = False, many: bool = False) -> dict[str, Any]:
    """`body` with the idempotency header."""
    extra = body(model, one=one, many=many)
    return {**extra, "parameters": [*extra.get("parameters", []), idempotency_header()]}


def install(api: FastAPI, sent: list[type[BaseModel]]) -> None:
    """Let `api.openapi()` know the shapes that only bodies and problems name."""

    def document() -> dict[str, Any]:
        if api.openapi_schema is None:
            schema = get_openapi(
                title=api.title,
                version=api.version,
                description=api.description,
                routes=api.routes,
                servers=[{"url": "/v1"}],
            )
            shapes = schema.setdefault("components", {}).setdefault("schemas", {})
            models: list[type[BaseModel]] = [Problem, *sent]
            for model in models:
                one = model.model_json_schema(ref_template=REF)
                for name, nested in one.pop("$defs", {}).items():
                    shapes.setdefault(name, nested)
                shapes[model.__name__] = one
            for name, example in {**SENT, **ANSWERED}.items():
                shapes[name]["examples"] = [example]
            api.openapi_schema = schema
        return api.openapi_schema

    api.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to extend the document
