"""Text files, compressed where the name ends in .gz: read with errors in our words, written whole or not at all."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast


@contextmanager
def reading(file: Path, error: type[ValueError]) -> Iterator[IO[str]]:
    """The file, open for reading.

    Raises:
        error: it cannot be read, or is no text; raised for what happens in the block, too.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") if _compressed(file) else file.open(encoding="utf-8") as text:
            yield text
    except (OSError, EOFError, zlib.error) as reason:
        raise error(f"{file}: cannot be read: {getattr(reason, 'strerror', None) or reason}") from None
    except UnicodeDecodeError:
        raise error(f"{file}: expected text in UTF-8") from None


@contextmanager
def writing(file: Path) -> Iterator[IO[str]]:
    """A text that becomes the file when the block ends well; equal texts make equal files."""
    part = file.with_name(f".{file.name}.part")
    try:
        with ExitStack() as stack:
            binary: IO[bytes] = stack.enter_context(part.open("wb"))
            if _compressed(file):
                packed = stack.enter_context(gzip.GzipFile("", "wb", 6, binary, mtime=0))
                binary = cast("IO[bytes]", packed)
            yield stack.enter_context(io.TextIOWrapper(binary, encoding="utf-8"))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def for_people(path: str | os.PathLike[str]) -> str:
    """A path, or an argument, as text that can be written: bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(path).decode(errors="replace")


def _compressed(file: Path) -> bool:
    return file.name.endswith(".gz")
