"""The upload of an artifact: streamed from the request into quarantine and hashed on the way, never whole in memory.

In a gateway (saas/management.py) a view is asked twice: with the head alone, whether the body may come, and with all of it.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http import QueryDict
from rest_framework.request import Request

from inference import artifacts
from inference.caps import Room
from saas.lib import jsontext
from saas.lib.errors import InvalidRequest, PayloadTooLarge, Unavailable
from tenants.bodies import refuse_encoding

CHUNK = 1 << 18
MAX_MANIFEST = 8 << 20  # bytes
FORM_BYTES = MAX_MANIFEST + (1 << 20)  # what a form may have beside the artifact
FIELDS = frozenset({"artifact", "manifest", "version"})


class Part(UploadedFile):  # type: ignore[type-arg]  # not generic at run time
    """A file part that was received whole: the artifact in quarantine at `path`, or a manifest's text."""

    def __init__(self, name: str, size: int, *, path: Path | None = None, digest: str = "", text: bytes = b"") -> None:
        super().__init__(None, name, "application/octet-stream", size)
        self.path, self.digest, self.text = path, digest, text

    def close(self) -> None:
        """Nothing is open."""


class Parts(FileUploadHandler):
    """Takes one part `artifact` of at most `max_bytes`, and a `manifest` that is sent as a file. Raises PayloadTooLarge, and
    what `room` raises: it is known only once the caller is."""

    chunk_size = CHUNK

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self.max_bytes = max_bytes
        self.path: Path | None = None
        self.room: Room | None = None

    def new_file(self, *args: Any, **kwargs: Any) -> None:  # Any: as Django calls it
        super().new_file(*args, **kwargs)
        if self.field_name == "artifact" and self.path is None:
            self._file = tempfile.NamedTemporaryFile(dir=artifacts.quarantine(), delete=False)  # noqa: SIM115  # kept
            self.path = Path(self._file.name)
            self._digest, self._text, self._limit = hashlib.sha256(), None, self.max_bytes
        elif self.field_name == "manifest":
            self._text, self._limit = bytearray(), MAX_MANIFEST
        else:
            raise InvalidRequest("The form takes one file `artifact`, and `manifest` and `version`")

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        if start + len(raw_data) > self._limit:
            raise PayloadTooLarge(f"{self.field_name} may have at most {self._limit} bytes")
        if self._text is not None:
            self._text += raw_data
        else:
            if self.room is not None:
                self.room.check(start + len(raw_data))
            self._digest.update(raw_data)
            self._file.write(raw_data)

    def file_complete(self, file_size: int) -> Part:
        if self._text is not None:
            return Part("manifest", file_size, text=bytes(self._text))
        self._file.close()
        return Part("artifact", file_size, path=self.path, digest=self._digest.hexdigest())

    def upload_interrupted(self) -> None:
        self.discard()

    def discard(self) -> None:
        """Remove what is in quarantine, if it still is."""
        if self.path is not None:
            self._file.close()
            self.path.unlink(missing_ok=True)


def expect(request: Request, max_bytes: int) -> Parts:
    """Have the request's body go through `Parts` when it is read. Raises UnsupportedMediaType, PayloadTooLarge, Unavailable
    before a byte is.
    """
    refuse_encoding(request)
    if int(request.META.get("CONTENT_LENGTH") or 0) > max_bytes + FORM_BYTES:
        raise PayloadTooLarge(f"artifact may have at most {max_bytes} bytes")
    if not artifacts.has_room():
        raise Unavailable("There is no room for uploads right now", retry_after=60)
    parts = Parts(max_bytes)
    request._request.upload_handlers = [parts]  # DRF hands it down only for reading
    if admission(request) is not None:
        request._request._post = QueryDict()  # type: ignore[attr-defined]  # Django's: the check for CSRF finds no form to read
    return parts


def limit(request: Request, parts: Parts, room: Room) -> None:
    """Take no more than there is room for. Raises ArtifactTooLarge now, if the body's length says enough, or on the way."""
    parts.room = room
    room.check(max(1, int(request.META.get("CONTENT_LENGTH") or 0) - FORM_BYTES))


def admission(request: Request) -> Callable[[str, Callable[[int], None]], None] | None:
    """Where only the head is here: what to tell whose upload may come, and a check of its bytes. None: the body is here too."""
    found: Callable[[str, Callable[[int], None]], None] | None = request.META.get("asgi.scope", {}).get("admit")
    return found


def admit(request: Request, organization_id: UUID, parts: Parts) -> bool:
    """Let the body come, if only the head is here; False if it is here already. Raises what `limit` does."""
    tell = admission(request)
    if tell is None:
        return False
    room, most = parts.room, parts.max_bytes + FORM_BYTES

    def check(size: int) -> None:
        if size > most:
            raise PayloadTooLarge(f"artifact may have at most {parts.max_bytes} bytes")
        if room is not None:
            room.check(max(1, size - FORM_BYTES))

    tell(organization_id.hex, check)
    return True


def receive(request: Request) -> tuple[Part, Any, str | None]:  # Any: the decoded manifest
    """(artifact, manifest, version) of the form. Raises InvalidRequest, PayloadTooLarge."""
    try:
        form: Any = request.data  # Any: a QueryDict with the files in it
    except RequestDataTooBig:
        raise PayloadTooLarge(f"manifest may have at most {MAX_MANIFEST} bytes") from None
    except SuspiciousOperation as error:  # too many fields or files
        raise InvalidRequest(str(error)) from None
    unknown = sorted(set(form) - FIELDS)
    artifact = form.get("artifact")
    if unknown or not isinstance(artifact, Part):
        raise InvalidRequest("The form takes one file `artifact`, and `manifest` and `version`")
    manifest = form.get("manifest", "{}")
    text = manifest.text if isinstance(manifest, Part) else manifest.encode()
    version = form.get("version")
    if not isinstance(version, str | None):
        raise InvalidRequest("version is a text")
    return artifact, jsontext.read(text, what="manifest", takes_nul=False), version
