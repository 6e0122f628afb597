"""Tiny videos without loss: a bright block that moves by whole pixels over a dark ground.

They are stored as FFV1 of 8-bit RGB, which only whole numbers take part in, so that every processor reads back the
very pictures that were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

SIZE = (96, 128)
"""Height and width, pixels."""


def block(
    count: int, size: tuple[int, int], speed: int, colour: tuple[int, int, int], ground: int
) -> Iterator[np.ndarray]:
    """Pictures (96, 128, 3) of a block of (height, width) that goes to and fro and changes its width."""
    height, width = size
    room = SIZE[1] - width - 8
    for n in range(count):
        picture = np.full((*SIZE, 3), ground, np.uint8)
        x = 4 + abs((n * speed) % (2 * room) - room)
        y = 8 + n % 3
        wide = width - n * 2 % (width // 2)  # arms that come down
        picture[y : y + height, x : x + wide] = colour
        picture[y : y + 6, x + wide // 2 :][:, : wide // 4] = (colour[0] // 2, colour[1], colour[2])
        yield picture


def write_lossless(path: Path, pictures: Iterator[np.ndarray], fps: int = 10) -> Path:
    """Write pictures as FFV1."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=fps, options={"flags": "+bitexact"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "bgr0"
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_corpus(folder: Path) -> Path:
    """Eight videos: walkers, one who lies, one in the dark, one that stands still, one too short, a test picture."""
    folder.mkdir(parents=True)
    takes = {
        "walk_1": (24, (64, 32), 3, (250, 240, 230), 60),
        "walk_2": (30, (80, 40), 2, (200, 240, 130), 90),
        "walk_3": (20, (48, 24), 5, (180, 250, 250), 40),
        "walk_4": (20, (72, 32), 4, (240, 200, 180), 30),
        "lie_5": (24, (24, 96), 1, (250, 250, 250), 50),
        "walk_6": (24, (32, 16), 3, (240, 240, 240), 0),
        "walk_7": (3, (64, 32), 3, (240, 240, 240), 60),
        "test_8": (20, (64, 32), 2, (255, 255, 255), 100),
    }
    for name, (count, size, speed, colour, ground) in takes.items():
        write_lossless(folder / f"{name}.mkv", block(count, size, speed, colour, ground))
    return folder
