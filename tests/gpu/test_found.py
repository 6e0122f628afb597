"""The GPUs that are found are those that torch computes on."""

from __future__ import annotations

import pytest

from dataengine.core import devices, nvml

pytestmark = pytest.mark.gpu


def test_found_through_the_management_library_as_through_torch(cuda: str) -> None:
    import torch

    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    assert sorted(devices.gpus()) == sorted(names)
    assert devices.able() and devices.pick("auto") == cuda and devices.count() == len(names)


def test_utilisation_is_measured(cuda: str) -> None:
    with nvml.opened() as library:
        if library is None:
            pytest.skip("the driver has no management library here")
        rate = nvml.utilisation(library, nvml.handle_of(library, 0))
        assert rate is None or 0 <= rate <= 1
