"""Read the body of a request within the limits, and the pictures in it."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from resnext.serving.admission import check_body_size
from resnext.serving.limits import Limits
from resnext.serving.problems import ProblemError
from resnext.serving.served_model import ServedModel
from resnext.serving.service import Service

Result = TypeVar("Result")
JSON_TOKENS = 200  # brackets, commas and colons of a JSON body with pictures; base64 has none of them
PARSED_AT_ONCE = 1 << 16  # bytes of a body


class NamedPicture(NamedTuple):
    """A picture of a request: its file name, if it has one, and its bytes, or what is wrong with it."""

    name: str | None
    data: bytes | ProblemError


class ClientLeftError(Exception):
    """The client closed the connection before it was answered. Nobody sees an answer."""


@asynccontextmanager
async def receive_body(request: Request, service: Service, model: ServedModel) -> AsyncIterator[bytes]:
    """Read the body of a request for a model, after asking whether it is admitted; hold it until the context ends.

    Raises:
        ProblemError: 413, 415 (compressed), 429 or 503.
        ClientLeftError: The client left.
    """
    service.check_admission(model)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() not in ("", "identity"):
        raise ProblemError(
            415, f"a body with content-encoding {encoding[:40]!r} is not accepted; send it as it is", "format"
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal():
        check_body_size(int(length), service.limits)
    with service.body_budget.open_account() as account:
        chunks: list[bytes] = []
        try:
            async for chunk in request.stream():
                account.add(len(chunk))
                chunks.append(chunk)
        except ClientDisconnect:
            raise ClientLeftError from None
        finally:
            service.metrics.body_bytes.inc(account.used)
        body = b"".join(chunks)
        chunks.clear()
        yield body


async def answer_while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await ``work``; cancel it when the client closes the connection. The body must have been read.

    Raises ClientLeftError when the client left.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeftError
    finally:
        task.cancel()
        watch.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def parse_pictures(request: Request, body: bytes, service: Service) -> list[NamedPicture]:
    """Find the pictures in a body: a form with files, JSON with base64, or else the body is the picture.

    Raises ProblemError: 400 for a form or JSON that cannot be read, 413 for too many pictures, 422 for none.
    """
    limits = service.limits
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        pictures = await _parse_form(request, body, limits)
    elif kind == "application/json" or kind.endswith("+json"):
        if len(body) > PARSED_AT_ONCE:  # 20 MB take 60 ms
            pictures = await service.decoders.run(_parse_json_pictures, body, size=len(body))
        else:
            pictures = _parse_json_pictures(body)
    elif kind == "application/x-www-form-urlencoded" and not body.startswith(
        (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF")
    ):
        raise ProblemError(
            415, "a form without files is not accepted; send the picture as the body, or a multipart form", "format"
        )
    else:
        return [NamedPicture(None, body)]
    if not pictures:
        raise ProblemError(422, "the request has no picture", "invalid")
    if len(pictures) > limits.images:
        raise ProblemError(
            413, f"the request has {len(pictures)} pictures; at most {limits.images} are accepted", "images"
        )
    return pictures


def parse_json(body: bytes, max_tokens: int) -> Any:
    """Parse JSON with at most ``max_tokens`` brackets, commas and colons. Raises ProblemError (400).

    The parser holds the interpreter's lock; a body of millions of small values would stop the server meanwhile.
    """
    if sum(body.count(token) for token in (b",", b"[", b"{", b":")) > max_tokens:
        raise ProblemError(400, f"the JSON has more than {max_tokens} values", "invalid")
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise ProblemError(400, f"the body is not valid JSON: {words}", "invalid") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def decode_base64(text: object) -> bytes | ProblemError:
    """Decode base64, also of a data URL; return a ProblemError (422) if it is not valid."""
    if not isinstance(text, str):
        return ProblemError(422, f"a picture in JSON must be a base64 text, not {type(text).__name__}", "invalid")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        return ProblemError(422, f"a picture in JSON is not valid base64: {str(error)[:100]}", "invalid")


def _parse_json_pictures(body: bytes) -> list[NamedPicture]:
    values = parse_json(body, JSON_TOKENS)
    images = values.get("images") if isinstance(values, dict) else None
    if not isinstance(images, list):
        raise ProblemError(
            422, 'the JSON must be an object with a list of base64 texts: {"images": ["..."]}', "invalid"
        )
    return [NamedPicture(None, decode_base64(item)) for item in images]


class _MemoryParser(MultiPartParser):
    """Keeps files in memory: they are parts of a body that lies there already, and is limited."""

    spool_max_size = 1 << 62


async def _parse_form(request: Request, body: bytes, limits: Limits) -> list[NamedPicture]:
    """Return the files of a multipart form, whatever their fields are called."""

    async def stream() -> AsyncGenerator[bytes, None]:
        for part in _split(body):
            yield part
            await asyncio.sleep(0)  # other requests have their turn between the parts

    parser = _MemoryParser(
        request.headers, stream(), max_files=limits.images, max_fields=limits.fields, max_part_size=1 << 16
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if error.message.startswith("Too many files") else 400
        raise ProblemError(status, f"the multipart form cannot be read: {error.message}", "invalid") from None
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [NamedPicture(file.filename or None, await file.read()) for file in files]
    finally:
        await form.close()


def _split(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), PARSED_AT_ONCE):
        yield body[start : start + PARSED_AT_ONCE]
