"""Forward passes recorded as CUDA graphs: one call of the host in place of hundreds.

A network makes hundreds of calls of torch, and each gives the interpreter to other threads for a moment. In a process
whose threads decode, track and fuse beside the networks, the GPU waits for these calls. A graph is recorded once per
number of images and replayed with one call. Only networks whose forward pass has fixed shapes can be recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class Recorded(NamedTuple):
    """A graph, and the tensors that it reads and writes."""

    graph: Any
    images: torch.Tensor
    found: torch.Tensor


class GraphedForward:
    """A forward pass on a CUDA device, recorded for each number of images at its first use.

    Replays of all numbers share one pool of memory, so that they follow each other, from whatever thread they come.

    Args:
        forward: (N, h, w, 3) uint8 images on the device -> a tensor (N, ...).
    """

    def __init__(self, forward: Callable[[torch.Tensor], Any]) -> None:
        self._forward = forward
        self._recorded: dict[tuple[int, ...], Recorded] = {}
        self._turn = threading.Lock()
        self._pool: Any = None
        self._done: Any = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """What the forward pass says of images, ready on the current stream."""
        import torch

        with self._turn:
            shape = tuple(images.shape)
            if shape not in self._recorded:
                self._recorded[shape] = self._record(images)
            recorded, stream = self._recorded[shape], torch.cuda.current_stream(images.device)
            if self._done is not None:
                stream.wait_event(self._done)
            recorded.images.copy_(images)
            recorded.graph.replay()
            found = recorded.found.clone()
            self._done = torch.cuda.Event()
            self._done.record(stream)
            return found

    def _record(self, images: torch.Tensor) -> Recorded:
        import torch

        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.synchronize(images.device)
        given, aside = images.clone(), torch.cuda.Stream(images.device)
        aside.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(aside):
            for _ in range(2):  # libraries choose their ways and take their memory
                self._forward(given)
        torch.cuda.synchronize(images.device)
        graph = torch.cuda.CUDAGraph()
        # other threads may go on using the device meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
            found = self._forward(given)
        torch.cuda.synchronize(images.device)
        return Recorded(graph, given, found)
