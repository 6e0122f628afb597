"""Videos, decoded and rendered pictures depend neither on what lay in memory nor on the processor's vector unit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

if platform.libc_ver()[0] != "glibc":
    pytest.skip("MALLOC_PERTURB_ is glibc's", allow_module_level=True)

SIZES = ["340x256", "256x340", "320x240", "426x240", "352x256", "64x48", "33x31", "101x76"]
"""Widths in whole and in broken macroblocks (16), chroma rows (8) and vector registers (16 to 64)."""

# Reads the processor's flags of libav and masks them: 0x100000 is AVX-512, 0x200000 AVX-512 of Ice Lake.
PROGRAM = """
import ctypes, json, sys
from pathlib import Path
import blake3, cv2, numpy as np
from dataengine.media.decode import PyAVDecoder
from dataengine.media.encode import write_video
from dataengine.rendering import render_clip

folder, options, mask = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
libav = ctypes.CDLL(next(line.split()[-1] for line in open("/proc/self/maps") if "libavutil" in line))
libav.av_force_cpu_flags(libav.av_get_cpu_flags() & mask)
found = {}
for size in sys.argv[4:]:
    width, height = map(int, size.split("x"))
    rough = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(rough, (0, 0), 3)
    video = folder / f"{size}.mp4"
    write_video(video, [np.roll(picture, 2 * n, 1) for n in range(12)], 25, options=options)
    decoded = blake3.blake3()
    with PyAVDecoder().open(video) as stream:
        for batch in stream:
            decoded.update(np.ascontiguousarray(batch.frames).tobytes())
            for frame in batch.frames[:2]:
                for way in (cv2.INTER_LINEAR, cv2.INTER_AREA):
                    decoded.update(cv2.resize(frame, (width // 2 + 1, height // 2 + 1), interpolation=way).tobytes())
    found[size] = [blake3.blake3(video.read_bytes()).hexdigest(), decoded.hexdigest()]
rendered = render_clip(5, 3, condition="mixed", num_people=2, camera_motion=True)
found["rendered"] = [blake3.blake3(part.tobytes()).hexdigest() for part in (rendered.frames, rendered.joints)]
print(json.dumps(found))
"""


def digests(
    folder: Path, dirt: int, options: Mapping[str, str] | None = None, mask: int = -1
) -> dict[str, tuple[str, str]]:
    """Digests of (file, its pictures) by size, and of rendered (frames, joints); `dirt` fills the fresh memory."""
    folder.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(folder), json.dumps(dict(options or {})), str(mask), *SIZES]
    done = subprocess.run(
        command, env=os.environ | {"MALLOC_PERTURB_": str(dirt)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[str, str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    return digests(tmp_path_factory.mktemp("heap") / "clean", 0)


@pytest.mark.parametrize("dirt", [1, 165])
def test_memory_has_no_part_in_a_video(tmp_path: Path, clean: dict[str, tuple[str, str]], dirt: int) -> None:
    assert digests(tmp_path / "dirty", dirt) == clean


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86-64")
@pytest.mark.parametrize("assembler", ["0", "AVX2"])
def test_the_vector_unit_has_no_part_in_a_video(
    tmp_path: Path, clean: dict[str, tuple[str, str]], assembler: str
) -> None:
    without_avx512 = ~0x300000
    assert digests(tmp_path / "other", 165, {"x264-params": f"asm={assembler}"}, without_avx512) == clean
