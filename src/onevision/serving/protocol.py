"""The open inference protocol, version 2 (KServe), over REST: photos as a BYTES tensor in base64, items as tensors.

Inputs `image` (N,) and, if there are known users, `user` (N,), "" for nobody; parameter `k` (10). Outputs: `item_id`
(N, k), `score` (N, k), and `found` (N,), how many of a row's places hold an item; the others hold "" and 0.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onevision import __version__
from onevision.serving.answers import Answer
from onevision.serving.config import BATCH_CAP, ServingConfig
from onevision.serving.engine import Engine
from onevision.serving.errors import PROTOCOL, RequestError, explain
from onevision.serving.requests import MAX_TEXT, decode_base64, read_json

INPUTS = {"image": "BYTES", "user": "BYTES"}
OUTPUTS = {"item_id": "BYTES", "score": "FP32", "found": "INT32"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Tensor(_Strict):
    """An input tensor; `data` in row-major order."""

    name: str
    shape: list[int] = Field(max_length=1)
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[str] = Field(max_length=BATCH_CAP)


class Output(_Strict):
    """An output that is wanted."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class Parameters(_Strict):
    """Parameters of a request; those that are not ours are refused."""

    k: int = Field(10, ge=1)


class Inference(_Strict):
    """The body of an infer request."""

    id: str | None = Field(None, max_length=MAX_TEXT)
    parameters: Parameters = Parameters()
    inputs: list[Tensor] = Field(max_length=len(INPUTS))
    outputs: list[Output] | None = Field(None, max_length=len(OUTPUTS))


def router(engine: Engine, config: ServingConfig) -> APIRouter:
    """The protocol's routes for one model."""
    routes = APIRouter(prefix=PROTOCOL, tags=["open inference protocol"])
    model = f"/models/{config.model_name}"

    @routes.get("")
    async def server_metadata() -> dict[str, Any]:
        return {"name": "onevision", "version": __version__, "extensions": []}

    @routes.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready")
    async def ready() -> dict[str, bool]:
        _ = engine.searcher
        return {"ready": True}

    @routes.get(f"{model}/ready")
    async def model_ready() -> dict[str, Any]:
        _ = engine.searcher
        return {"name": config.model_name, "ready": True}

    @routes.get(model)
    async def model_metadata() -> dict[str, Any]:
        return {
            "name": config.model_name,
            "versions": [engine.searcher.bundle.identity],
            "platform": "onevision_bundle",
            "inputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in INPUTS.items()],
            "outputs": [
                {"name": name, "datatype": kind, "shape": [-1] if name == "found" else [-1, -1]}
                for name, kind in OUTPUTS.items()
            ],
        }

    @routes.post(f"{model}/infer", openapi_extra={"requestBody": _inference_body()})
    async def infer(request: Request) -> JSONResponse:
        with engine.admit():
            asked = await _read(request, config)
            images, users = _columns(asked, config)
            k = asked.parameters.k
            with engine.admit(len(images) - 1):
                found = await asyncio.gather(
                    *(engine.answer(image, user, k, None) for image, user in zip(images, users, strict=True))
                )
        wanted = [output.name for output in asked.outputs] if asked.outputs else list(OUTPUTS)
        tensors = _tensors([answer for answer, _ in found], k)
        body = {
            "model_name": config.model_name,
            "model_version": found[0][1].bundle.identity,
            **({"id": asked.id} if asked.id is not None else {}),
            "outputs": [{"name": name, "datatype": OUTPUTS[name], **tensors[name]} for name in wanted],
        }
        return JSONResponse(body)

    return routes


def _inference_body() -> dict[str, Any]:
    """The body of an infer request for /openapi.json, where a schema has no definitions of its own."""
    schema = Inference.model_json_schema()
    parts = schema.pop("$defs")

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            named = node.get("$ref")
            return inline(parts[named.rpartition("/")[2]]) if named else {key: inline(node[key]) for key in node}
        return [inline(part) for part in node] if isinstance(node, list) else node

    return {"required": True, "content": {"application/json": {"schema": inline(schema)}}}


async def _read(request: Request, config: ServingConfig) -> Inference:
    if "inference-header-content-length" in request.headers:
        raise RequestError(400, "invalid_request", "the binary tensor extension is not offered; send tensors as JSON")
    try:
        asked = Inference.model_validate_json(await read_json(request, config))
    except ValidationError as error:
        raise RequestError(400, "invalid_request", explain(error)) from None
    if asked.parameters.k > config.max_k:
        raise RequestError(400, "invalid_request", f"parameters.k: over the cap of {config.max_k}")
    for output in asked.outputs or []:
        if output.name not in OUTPUTS:
            raise RequestError(400, "invalid_request", f"no output {output.name!r}; there are {', '.join(OUTPUTS)}")
    return asked


def _columns(asked: Inference, config: ServingConfig) -> tuple[list[bytes], list[str | None]]:
    tensors = {tensor.name: tensor for tensor in asked.inputs}
    if len(tensors) != len(asked.inputs):
        raise RequestError(400, "invalid_request", "an input is there twice")
    for name, tensor in tensors.items():
        if name not in INPUTS:
            raise RequestError(400, "invalid_request", f"no input {name!r}; there are {', '.join(INPUTS)}")
        if tensor.datatype != INPUTS[name]:
            raise RequestError(400, "invalid_request", f"{name}: datatype {INPUTS[name]} is wanted")
        if tensor.shape != [len(tensor.data)]:
            raise RequestError(400, "invalid_request", f"{name}: {len(tensor.data)} values, shape {tensor.shape}")
    if "image" not in tensors or not tensors["image"].data:
        raise RequestError(400, "invalid_request", "the input 'image' is missing or empty")
    data = tensors["image"].data
    if len(data) > config.max_batch:
        raise RequestError(400, "invalid_request", f"{len(data)} photos; send at most {config.max_batch} at a time")
    users = tensors["user"].data if "user" in tensors else [""] * len(data)
    if len(users) != len(data):
        raise RequestError(400, "invalid_request", f"{len(data)} photos but {len(users)} users")
    if any(len(user) > MAX_TEXT for user in users):
        raise RequestError(400, "invalid_request", f"user: over {MAX_TEXT} characters")
    return [decode_base64(text, "image") for text in data], [user or None for user in users]


def _tensors(answers: list[Answer], k: int) -> dict[str, dict[str, Any]]:
    count = len(answers)
    missing = [k - len(answer.hits) for answer in answers]
    items, scores = [], []
    for answer, empty in zip(answers, missing, strict=True):
        items += [hit.item_id for hit in answer.hits] + [""] * empty
        scores += [hit.score for hit in answer.hits] + [0.0] * empty
    return {
        "item_id": {"shape": [count, k], "data": items},
        "score": {"shape": [count, k], "data": scores},
        "found": {"shape": [count], "data": [len(answer.hits) for answer in answers]},
    }
