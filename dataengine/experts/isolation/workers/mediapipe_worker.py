# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = [
#     "mediapipe==0.10.21", "numpy>=2,<3", "protobuf<5", "opencv-python-headless",
#     "absl-py", "attrs", "flatbuffers", "matplotlib",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# override-dependencies = [
#     "numpy>=2,<3", "jax; python_version<'0'", "jaxlib; python_version<'0'",
# "opencv-contrib-python; python_version<'0'", "sentencepiece; python_version<'0'", "sounddevice; python_version<'0'",
# ]
# ///
"""Finds people with the two networks in mediapipe's wheel; the worker of `dataengine.experts.mediapipe`.

mediapipe 0.10.21 is the last release whose wheel carries a pose model. Its overrides leave out what pose
estimation does not touch (361 MB instead of 879). The ordinary `solutions.pose` gives one person a
picture; here the wheel's detector and landmark graphs are run by hand, so that there may be several.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from people import LEAST, Array, Person, body_score, covered, finish, merge, region, tiles  # type: ignore[import-not-found]
from serving import Answer, Arrays, Handler, Header, serve  # type: ignore[import-not-found]

DETECTION = """
input_stream: "image"
output_stream: "detections"
num_threads: 1
node { calculator: "PoseDetectionCpu" input_stream: "IMAGE:image" output_stream: "DETECTIONS:detections" }
"""
LANDMARKS = """
input_stream: "image"
input_stream: "region"
input_side_packet: "complexity"
input_side_packet: "segmentation"
output_stream: "landmarks"
output_stream: "circle"
num_threads: 1
node {
  calculator: "PoseLandmarkByRoiCpu"
  input_stream: "IMAGE:image"
  input_stream: "ROI:region"
  input_side_packet: "MODEL_COMPLEXITY:complexity"
  input_side_packet: "ENABLE_SEGMENTATION:segmentation"
  output_stream: "LANDMARKS:landmarks"
  output_stream: "AUXILIARY_LANDMARKS:circle"
}
"""


class Networks:
    """The detector and the landmark network."""

    def __init__(self, weights: dict[str, str]) -> None:
        import mediapipe
        from mediapipe.framework.formats import rect_pb2
        from mediapipe.python._framework_bindings import resource_util

        root = Path(mediapipe.__file__).parent.parent
        for name, promised in weights.items():
            found = hashlib.sha256((root / name).read_bytes()).hexdigest()
            if found != promised:
                raise ValueError(f"{name} has sha256 {found}, expected {promised}")
        resource_util.set_resource_dir(str(root))
        self._mp, self._rectangle = mediapipe, rect_pb2.NormalizedRect
        self._time, self._detections, self._landmarks = 0, [], {}  # type: ignore[var-annotated]
        get, make = mediapipe.packet_getter, mediapipe.packet_creator

        self._detector = mediapipe.CalculatorGraph(graph_config=DETECTION)
        self._detector.observe_output_stream("detections", lambda _, p: self._detections.extend(get.get_proto_list(p)))
        self._detector.start_run()
        self._looker = mediapipe.CalculatorGraph(graph_config=LANDMARKS)
        for stream in ("landmarks", "circle"):
            self._looker.observe_output_stream(
                stream, lambda name, p: self._landmarks.update({name: get.get_proto(p).landmark})
            )
        self._looker.start_run({"complexity": make.create_int(1), "segmentation": make.create_bool(False)})

    def packet(self, picture: np.ndarray) -> Any:
        """A picture (H, W, 3) uint8 RGB as the graphs take it."""
        return self._mp.packet_creator.create_image_frame(
            image_format=self._mp.ImageFormat.SRGB, data=np.ascontiguousarray(picture)
        )

    def detect(self, picture: np.ndarray, left: int = 0, top: int = 0) -> list[tuple[float, Array]]:
        """Scores and regions of the people in a picture whose corner lies at (left, top) of the whole."""
        height, width = picture.shape[:2]
        self._detections.clear()
        self._time += 1
        self._detector.add_packet_to_input_stream("image", self.packet(picture).at(self._time))
        self._detector.wait_until_idle()
        found = []
        for detection in self._detections:
            points = np.array(
                [(p.x * width + left, p.y * height + top) for p in detection.location_data.relative_keypoints]
            )
            found.append((float(detection.score[0]), region(points[0], points[1])))
        return found

    def look(self, packet: Any, height: int, width: int, place: Array) -> Person | None:
        """The person in a region of a picture, None if there is none."""
        self._landmarks.clear()
        self._time += 1
        square = self._rectangle(
            x_center=place[0] / width,
            y_center=place[1] / height,
            width=place[2] / width,
            height=place[2] / height,
            rotation=place[3],
        )
        self._looker.add_packet_to_input_stream("image", packet.at(self._time))
        self._looker.add_packet_to_input_stream("region", self._mp.packet_creator.create_proto(square).at(self._time))
        self._looker.wait_until_idle()
        if "landmarks" not in self._landmarks:
            return None
        landmarks = np.array(
            [(p.x * width, p.y * height, p.visibility, p.presence) for p in self._landmarks["landmarks"]]
        )
        circle = np.array([(p.x * width, p.y * height) for p in self._landmarks["circle"]])
        if not (np.isfinite(landmarks).all() and np.isfinite(circle).all()):
            return None
        return Person(landmarks, region(circle[0], circle[1]), body_score(landmarks, height, width))


def see(networks: Networks, picture: np.ndarray, index: int, known: list[Array], options: Header) -> list[Person]:
    """The people in one frame.

    Args:
        picture: (H, W, 3) uint8 RGB.
        index: number of the frame in its clip.
        known: regions of the people in the frame before.
        options: the configuration of the expert.
    """
    height, width = picture.shape[:2]
    due = index % options["detect_every"] == 0
    places = list(known)
    if due or not known:
        found = networks.detect(picture)
        for left, top, side in tiles(height, width, options["tiles"]) if due else []:
            found += networks.detect(picture[top : top + side, left : left + side], left, top)
        for _, place in sorted(found, key=lambda f: -f[0]):
            if place[2] >= 1 and not covered(place, places):
                places.append(place)
    packet = networks.packet(picture)
    # Twice as many looks as people wanted: some regions show nobody, or somebody twice.
    seen = [networks.look(packet, height, width, place) for place in places[: 2 * options["max_people"]]]
    people: list[Person] = merge(
        [p for p in seen if p is not None and p.score >= max(options["min_score"], LEAST)], options["max_people"]
    )
    return people


def make(options: Header) -> tuple[Header, Handler]:
    """Load the networks; the answers carry the state to be sent with the next request of the same clip."""
    networks = Networks(options["weights"])

    def answer(header: Header, arrays: Arrays, frames: np.ndarray | None) -> Answer:
        state = header["state"] or {"index": 0, "regions": []}
        index, known = state["index"], [np.array(r) for r in state["regions"]]
        counts, parts = [], []
        for picture in frames if frames is not None else ():
            people = see(networks, picture, index, known, options)
            index, known = index + 1, [p.region for p in people]
            counts.append(len(people))
            parts.append(finish(people, *picture.shape[:2]))
        empty = finish([], 1, 1)
        joined = [np.concatenate(column) for column in zip(empty, *parts, strict=True)]
        return {"counts": counts, "state": {"index": index, "regions": [r.tolist() for r in known]}}, joined

    return {"networks": sorted(options["weights"])}, answer


if __name__ == "__main__":
    serve(make)
