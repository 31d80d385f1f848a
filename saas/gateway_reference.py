"""What the API reference says of the routes that the gateway answers, which Django does not know."""

from typing import Any

JSON = "application/json"
Document = dict[str, Any]  # Any: a part of an OpenAPI document
TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "example": "FP32"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}, "description": "Flat, or nested as the shape."},
    },
}
INDEX = {JSON: {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}
INFER = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string"},
                "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
                "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
                "outputs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                    },
                },
            },
        }
    },
    "application/octet-stream": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "JSON and binary tensors; Inference-Header-Content-Length.",
        }
    },
}
PREDICT = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "inputs": {"description": "By the model's task: rows, objects by feature, images in base64, texts."},
                "top": {"type": "integer", "minimum": 1},
            },
        }
    },
    "multipart/form-data": {
        "schema": {"type": "object", "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}}}
    },
}


def gateway_paths() -> Document:
    """`{model}` is a name or organization/name; `/versions/{version or alias}` may follow it."""
    model = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    versioned = [*model, {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}]
    paths: Document = {
        "/v2": {"get": _operation("v2_server", "Server metadata", is_open=True)},
        "/v2/health/live": {"get": _operation("v2_live", "Whether the server lives", is_open=True)},
        "/v2/health/ready": {"get": _operation("v2_ready", "Whether an answer could be given", is_open=True)},
        "/v2/repository/index": {"post": _operation("v2_index", "Models that the key may see", body=INDEX)},
    }
    for suffix, parameters, ending in (("", model, ""), ("/versions/{version}", versioned, "_version")):
        base = f"/v2/models/{{model}}{suffix}"
        paths[base] = {"get": _operation(f"v2_model{ending}", "Model metadata", parameters)}
        paths[f"{base}/ready"] = {"get": _operation(f"v2_model_ready{ending}", "Whether the model can be called", parameters)}
        paths[f"{base}/infer"] = {
            "post": _operation(f"v2_infer{ending}", "Infer (Open Inference Protocol V2)", parameters, INFER)
        }
        place = f"/api/v1/models/{{model}}{suffix}/predict"
        paths[place] = {"post": _operation(f"predict{ending}", "Predict", parameters, PREDICT)}
    return paths


def _operation(
    name: str,
    summary: str,
    parameters: list[Document] | None = None,
    body: Document | None = None,
    *,
    is_open: bool = False,
) -> Document:
    operation: Document = {
        "operationId": name,
        "summary": summary,
        "tags": ["inference"],
        "parameters": parameters or [],
        "responses": {
            "200": {"description": "The answer", "content": {JSON: {"schema": {}}}},
        },
        "security": [] if is_open else [{"apiKey": []}],
    }
    if body:
        operation["requestBody"] = {"content": body}
    return operation
