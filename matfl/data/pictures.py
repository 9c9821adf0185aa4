"""Opening picture files: two formats, by contents and not by name, whole or an error that names the file."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from matfl.data.cache import DataError

__all__ = ["FORMATS", "open_picture", "picture_size", "regular", "rgb"]

FORMATS = ("JPEG", "PNG")
"""What is opened as a picture. Pillow knows far more formats, some of which start other programs."""


def regular(path: Path, remedy: str) -> Path:
    """`path` if it is an ordinary file (or a link to one). A pipe would be waited for without end.

    Raises DataError otherwise, with `remedy` at its end.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise DataError(f"{path} is missing: {remedy}")
    what = "a folder" if path.is_dir() else "a pipe, socket or device"
    raise DataError(f"{path} is {what}: expected a file; {remedy}")


def picture_size(path: Path, *, remedy: str, formats: tuple[str, ...] = FORMATS) -> tuple[int, int]:
    """(height, width) by the file's header. Raises DataError as `open_picture` does."""
    try:
        with Image.open(regular(path, remedy), formats=formats) as image:
            return image.height, image.width
    except Exception as error:
        raise _unreadable(path, formats, error, remedy) from None


def open_picture(path: Path, *, remedy: str, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """A picture with its pixels read; of PNG files every checksum is looked at, which the decoder passes over.

    Args:
        formats: which of `FORMATS` are expected. A label is a PNG file: JPEG's compression changes its numbers.
        remedy: what to do about a file that cannot be used, for the message.

    Raises DataError for a file that is missing, no ordinary file, of another format, damaged, or so large that Pillow
    takes it for a bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(regular(path, remedy), formats=formats) as image:
                if image.format == "PNG":
                    image.verify()
            with Image.open(path, formats=formats) as image:
                image.load()
                return image
    except Exception as error:  # a damaged file fails anywhere in Pillow: OSError, SyntaxError, struct.error, ...
        raise _unreadable(path, formats, error, remedy) from None


def rgb(image: Image.Image, path: Path, remedy: str) -> Image.Image:
    """The picture in 8-bit RGB. Raises DataError for modes of which that would lose more than transparency."""
    if image.mode not in ("RGB", "L", "P", "RGBA", "LA", "1"):
        raise DataError(f"{path} is of mode {image.mode}: expected 8 bits a channel; {remedy}")
    return image.convert("RGB")


def _unreadable(path: Path, formats: tuple[str, ...], error: Exception, remedy: str) -> Exception:
    if isinstance(error, DataError):
        return error
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return DataError(f"{path} has too many pixels ({error}): expected a photograph's size; {remedy}")
    found = _format(path)
    if isinstance(error, UnidentifiedImageError) and found not in (None, *formats):
        return DataError(f"{path} is a {found} file: expected {' or '.join(formats)}, whatever its name says; {remedy}")
    reason = str(error).replace(f" '{path}'", "") or type(error).__name__
    return DataError(f"{path} cannot be read as an image ({reason}): it is damaged or truncated; {remedy}")


_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"PK": "ZIP",
    b"<": "web page or other text",
}


def _format(path: Path) -> str | None:
    """What a file is by its first bytes, for messages."""
    with open(path, "rb") as file:
        start = file.read(16)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    return next((name for mark, name in _BEGINNINGS.items() if start.startswith(mark)), None)
