"""What a file is, told by its first bytes: a video, or what it is instead."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

_START = 4096
_PICTURE_BRANDS = {b"avif": "an AVIF picture", b"mif1": "a HEIF picture"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis"), "a HEIC picture"
)
_SOUND_BRANDS = (b"M4A ", b"M4B ", b"M4P ", b"aax ", b"aaxc")

_KINDS = (
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (0, b"GIF8", "a GIF picture"),
    (8, b"WEBP", "a WebP picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"8BPS", "a Photoshop picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (4, b"JXL ", "a JPEG XL picture"),
    (4, b"jP  ", "a JPEG 2000 picture"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"{\\rtf", "a document in RTF"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an office program"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (0, b"\x04\x22\x4d\x18", "an LZ4 archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF\r\n", "an HDF5 file"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program for Windows"),
    (0, b"#!", "a script"),
    (0, b"d8:announce", "a torrent"),
    (0, b"#EXTM3U", "a playlist"),
    (0, b"[playlist]", "a playlist"),
    (0, b"WEBVTT", "subtitles"),
    (0, b"version https://git-lfs", "a pointer to a file in Git LFS"),
    (0, b"/annex/objects/", "a pointer to a file in git-annex"),
    (0, b"../.git/annex/objects/", "a pointer to a file in git-annex"),
    (0, b"XSym\n", "a link that a file server wrote as text"),
    (0, b"!<symlink>", "a link that a file server wrote as text"),
    (0, b"[InternetShortcut]", "a shortcut to a web page"),
)
"""Where in a file which bytes tell that it is whole and something else than a video."""

TEXT = "a text file"
ADVICE = {
    "a pointer to a file in Git LFS": "run `git lfs pull` in its repository",
    "a pointer to a file in git-annex": "run `git annex get` in its repository",
    "a WebP animation": "no decoder here reads it, save it as .mp4 or .gif",
    "a web page": "a server gave a page in place of the video",
    "an XML text": "servers send one for an error",
    "a JSON text": "servers send one for an error",
    "a zip archive": "unpack it",
    "a tar archive": "unpack it",
    "a gzip archive": "unpack it",
}
"""What to do about some kinds, or how they come about."""

_VIDEOS = (
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (0, b"FLV\x01"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF, WMV
    (0, b"\0\0\x01\xba"),  # MPEG program stream
    (0, b"\0\0\x01\xb3"),  # MPEG video
    (0, b".RMF"),
    (0, b"GIF8"),
    (0, b"DKIF"),
    (0, b"YUV4MPEG2 "),
    (0, b"\x06\x0e\x2b\x34"),  # MXF
    (0, b"nut/multimedia"),
    (0, b"\xb7\xd8\x00\x20\x37\x49\xda\x11"),  # WTV
    (0, b"\0\0\0\x01\x67"),  # H.264, from its sequence header or its delimiter on
    (0, b"\0\0\0\x01\x27"),
    (0, b"\0\0\0\x01\x09"),
    (0, b"\0\0\0\x01\x40\x01"),  # HEVC, likewise
    (0, b"\0\0\0\x01\x46\x01"),
)
"""Where in a file which bytes tell that it is a video of a kind that is read."""


def _begin(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_START)
    except OSError:
        return b""


def holds_video(path: Path) -> bool:
    """Whether the first bytes of a regular file are those of a video of a kind that is read."""
    start = _begin(path)
    if start[4:8] == b"ftyp":
        return start[8:12] not in _PICTURE_BRANDS and start[8:12] not in _SOUND_BRANDS
    if start[:4] == b"OggS":
        return b"theora" in start[:512] or b"OVP80" in start[:512]
    if any(len(start) > 2 * size + at and start[at::size][:3] == b"GGG" for at, size in ((0, 188), (4, 192))):
        return True  # an MPEG transport stream, as broadcast or as cameras write it
    return any(start.startswith(mark, at) for at, mark in _VIDEOS)


def is_mjpeg(path: Path) -> bool:
    """Whether a file of JPEG pictures holds more than one of them: a video of an old camera."""
    try:
        with path.open("rb") as file:
            return file.read(3) == b"\xff\xd8\xff" and b"\xff\xd9\xff\xd8\xff" in file.read(4 << 20)
    except OSError:
        return False


def kind_of_file(path: Path) -> str | None:
    """What a file is that is no video, by its first bytes; None where they do not tell."""
    start = _begin(path)
    if start[4:8] == b"ftyp" and start[8:12] in _PICTURE_BRANDS:
        return _PICTURE_BRANDS[start[8:12]]
    if start[8:16] == b"WEBPVP8X" and len(start) > 20 and start[20] & 2:
        return "a WebP animation"
    if start[:2] == b"BM" and start[6:10] == b"\0\0\0\0":
        return "a BMP picture"
    if known := next((what for at, mark, what in _KINDS if start.startswith(mark, at)), None):
        return known
    return _kind_of_text(start)


def what_is_missing(path: Path) -> str | None:
    """What a broken video lacks, by its first bytes; None where they do not tell."""
    start = _begin(path)
    if start and not start.strip(b"\0"):
        return "begins with nothing but zeros: room was set aside for it, and the content never came"
    if start[4:8] == b"ftyp" and not _has_index(path):
        return "is an MP4 file without its index (moov): cut short, or still being written"
    return None


def _has_index(path: Path) -> bool:
    """Whether one of the outermost boxes of an MP4 file is its index (ISO 14496-12, 4.2)."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length, name = struct.unpack(">I4s", head[:8])
            if name in (b"moov", b"moof"):
                return True
            if length == 1 and len(head) == 16:
                length = int(struct.unpack(">Q", head[8:])[0])
            if length < 8:
                break
            at += length
    return False


def _kind_of_text(start: bytes) -> str | None:
    """What kind of text a file begins with; None where it is no text."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return TEXT
    start = start.rstrip(b"\0")
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4 or len(start) < _START:  # a letter that is cut at the end is no fault
            return None
        text = start[: error.start].decode("utf-8-sig")
    bare = text.strip()
    if not bare or re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f]", text):
        return None
    lower = bare[:512].lower()
    if re.match(r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body|meta|title|script)", lower, re.S):
        return "a web page"
    if "<svg" in lower:
        return "an SVG picture"
    if lower.startswith("<mpd") or "<mpd " in lower:
        return "a playlist"
    if lower.startswith("<"):
        return "an XML text"
    if lower[0] in "{[" and (len(start) == _START or _is_json(bare)):
        return "a JSON text"
    if re.match(r"\d+\s*\n\d\d:\d\d:\d\d", bare):
        return "subtitles"
    return TEXT


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
