"""Reading checkpoints of VideoPose3D without running anything that stands in them.

A file of its authors is a torch file of a dictionary: the state of the network under `model_pos`, and beside it the
state of the optimiser and of numpy's random numbers. Torch's restricted reader takes tensors and plain containers; the
arrays of numpy's random numbers are let through by name, since they run nothing. Other objects are refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.core.errors import WeightsError
from dataengine.lift.network import TemporalNetwork

if TYPE_CHECKING:
    import torch

STATES = ("model_pos", "state_dict", "model")
"""Keys under which a checkpoint may hold the state of the network."""


@contextmanager
def _arrays_allowed() -> Iterator[None]:
    """Torch's restricted reader also builds numpy arrays of numbers."""
    import torch.serialization

    arrays = np.array(0).__reduce__()[0]
    allowed: list[Any] = [arrays, (arrays, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype]
    allowed += [type(np.dtype(one)) for one in (np.uint32, np.int64, np.float64)]
    with torch.serialization.safe_globals(allowed):
        yield


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of the network of a checkpoint by their published names, float32.

    Raises:
        WeightsError: the file is no such checkpoint, or holds objects that are not data.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            with _arrays_allowed():
                content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, KeyError) as error:
        told = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"weights {path} are no checkpoint of tensors alone ({told}); save its model_pos as safetensors"
        ) from error
    except Exception as error:  # safetensors has an error of its own
        raise WeightsError(f"weights {path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"weights {path} hold {type(content).__name__}, not a dictionary of tensors")
    state = next((content[key] for key in STATES if isinstance(content.get(key), Mapping)), content)
    tensors = {
        str(name).removeprefix("module."): tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)
    }
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def network_of(state: Mapping[str, torch.Tensor], file: str, causal: bool = False) -> TemporalNetwork:
    """The network that a state is of, with its weights: widths, channels and joints follow from the shapes.

    Args:
        state: tensors by published name. file: what messages call it.
        causal: whether the network was trained to look at earlier frames alone; shapes do not tell.

    Raises:
        WeightsError: tensors are missing, too many, or do not fit together.
    """
    expand, shrink = state.get("expand_conv.weight"), state.get("shrink.weight")
    if expand is None or shrink is None or expand.ndim != 3:
        raise WeightsError(f"weights {file} are not of VideoPose3D: they lack expand_conv.weight or shrink.weight")
    numbers = sorted(int(m[1]) for name in state if (m := re.fullmatch(r"layers_conv\.(\d+)\.weight", name)))
    dilated = [state[f"layers_conv.{number}.weight"] for number in numbers if number % 2 == 0]
    if any(one.ndim != 3 or one.shape[2] > 99 or one.shape[2] % 2 == 0 for one in (expand, *dilated)):
        raise WeightsError(f"weights {file} have convolutions that this network has not")
    widths = (expand.shape[2], *(one.shape[2] for one in dilated))
    network = TemporalNetwork(expand.shape[1], shrink.shape[0], widths, expand.shape[0], causal=causal)
    own = network.state_dict()
    lacking = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    strange = [name for name in state if name not in own]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    for names, what in ((lacking, "lack"), (strange, "have beside the network's tensors"), (wrong, "misshape")):
        if names:
            raise WeightsError(f"weights {file} {what} {', '.join(sorted(names)[:3])}")
    network.load_state_dict({**own, **state})
    return network.eval()
