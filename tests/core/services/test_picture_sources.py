"""Pictures out of a ZIP and from an address: bounded, named, and refused in words."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping

import pytest

from core.errors import ArchiveRefusedError, ImageUnsupportedError, ImageUrlRefusedError, TooManyImagesError
from core.identity.tables import User
from core.services import picture_sources
from core.services.application import Application
from core.services.quotes import prepare_image
from tests.conftest import OpenApp
from tests.core.services.helpers import pictures
from tests.gateway.calls import serve_files


def pack(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_a_zip_of_pictures(app: Application) -> None:
    """The files of all folders, without what systems hide in an archive; each can be served."""
    files = pictures(2)
    hidden = {"__MACOSX/a/._0.png": b"x", "a/.DS_Store": b"x", "a/": b""}
    data = pack({"a/0.png": files["0.png"], "b/0.png": files["1.png"], **hidden})
    assert picture_sources.list_zip(app, data) == ["a/0.png", "b/0.png"]
    unpacked = [picture_sources.read_zip(app, data, name) for name in ("a/0.png", "b/0.png")]
    assert unpacked == [files["0.png"], files["1.png"]]
    assert prepare_image(app, "0.png", unpacked[0]).width == 64


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no zip at all", pack({}), pack({"a/": b"", ".hidden": b"x"})])
def test_what_is_no_zip_of_pictures(app: Application, data: bytes) -> None:
    """Nothing, a beginning, something else, and one without files are refused in words."""
    with pytest.raises(ArchiveRefusedError):
        picture_sources.list_zip(app, data)


def test_too_many_files(open_app: OpenApp) -> None:
    """More than a batch has are refused before one is unpacked."""
    app = open_app(batch_images_max=3)
    with pytest.raises(TooManyImagesError, match="At most 3 images run in one batch, and this ZIP has 4"):
        picture_sources.list_zip(app, pack({f"{n}.png": b"x" for n in range(4)}))


def test_a_bomb_is_not_unpacked(open_app: OpenApp) -> None:
    """Of a file that would become a gigabyte, one byte more than the largest picture is read."""
    app = open_app(image_bytes_max=100_000)
    data = pack({"bomb.png": bytes(50_000_000)})
    assert len(data) < 100_000
    assert len(picture_sources.read_zip(app, data, "bomb.png")) == 100_001


def test_a_file_that_cannot_be_read(app: Application) -> None:
    """One that is broken, one with a password, one of an unknown method and one that is not there."""
    whole = pack({"a.png": pictures(1)["0.png"]})
    broken = whole[:60] + bytes(40) + whole[100:]
    locked = bytearray(whole)
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = whole.index(signature) + at
        locked[place : place + 2] = struct.pack("<H", 1)
    odd = bytearray(whole)
    for signature, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = whole.index(signature) + at
        odd[place : place + 2] = struct.pack("<H", 97)
    for data, name in ((broken, "a.png"), (bytes(locked), "a.png"), (bytes(odd), "a.png"), (whole, "b.png")):
        with pytest.raises(ArchiveRefusedError):
            picture_sources.read_zip(app, data, name)


def test_a_picture_by_its_address(
    open_app: OpenApp, sign_up: Callable[..., User], photo_bytes: dict[str, bytes]
) -> None:
    """It comes with the name at the end of its address; an address of this machine is refused unless it is allowed."""
    page = b"<!doctype html><img src=bus.jpg>"
    files = {"bus 1.jpg": photo_bytes["bus.jpg"], "bus%201.jpg": photo_bytes["bus.jpg"], "view.jpg": page, "none": b""}
    with serve_files(files) as url:
        allowed = open_app(fetch_allowed_hosts="127.0.0.1")
        ann = sign_up(allowed)
        assert picture_sources.fetch_picture(allowed, ann, f" {url}/bus%201.jpg?x=1 ") == (
            "bus 1.jpg",
            photo_bytes["bus.jpg"],
        )
        for nothing in ("view.jpg", "none"):
            with pytest.raises(ImageUnsupportedError):
                picture_sources.fetch_picture(allowed, ann, f"{url}/{nothing}")
        with pytest.raises(ImageUrlRefusedError):
            picture_sources.fetch_picture(open_app(), ann, f"{url}/bus%201.jpg")
