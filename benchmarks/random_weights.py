"""Experts on torch with random weights: for measuring speed and for comparing with other programs of the same network.

Each function writes a checkpoint of the form its expert reads into a folder and gives the expert that uses it.
Nothing such an expert says about a picture means anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataengine import experts
from dataengine.core import registry
from dataengine.experts.preprocess import GREY, letterbox
from dataengine.rendering import render_clip


def vitpose(folder: Path, model: str = "base-simple", **options: Any) -> Any:
    """ViTPose as its publishers save it."""
    import torch

    from dataengine.experts.vitpose import empty_network

    torch.manual_seed(0)
    network = empty_network(model)
    # heads whose maps have clear peaks
    torch.nn.init.normal_(network.head.conv.weight, std=0.05)
    return experts.create("vitpose", model=model, checkpoint=_saved(network, folder / f"vitpose-{model}"), **options)


def rtdetr(folder: Path, model: str = "r18vd", **options: Any) -> Any:
    """RT-DETR as its publishers save it: boxes of a fifth of the frame's sides, here and there, scores apart."""
    import torch

    from dataengine.experts.rtdetr import SIDE, empty_network

    torch.manual_seed(0)
    network = empty_network(model).eval()
    x, decoder = _picture(SIDE, SIDE), network.model.decoder

    def call() -> Any:
        return network(pixel_values=x)

    _settle_frozen(network, call)
    last = decoder.bbox_embed[-1].layers[-1]
    for layer, target, middle in (
        (network.model.enc_score_head, 1.5, -2.0),
        (decoder.class_embed[-1], 1.5, -2.0),
        (last, 0.3, 0.0),
    ):
        torch.nn.init.normal_(layer.weight)
        _tame([layer], target, call, middle)
    with torch.no_grad():
        last.bias += torch.tensor([0.0, 0.0, 1.5, 1.5])
    return registry.create(
        "detectors", "rtdetr", {"model": model, "checkpoint": _saved(network, folder / f"rtdetr-{model}"), **options}
    )


def keypoint_rcnn(folder: Path, **options: Any) -> Any:
    """Keypoint R-CNN that finds people everywhere."""
    import torch

    from dataengine.experts.keypoint_rcnn import empty_network

    torch.manual_seed(0)
    network = empty_network("random weights")
    # boxes are the anchors themselves, half of them people
    torch.nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.05)
    torch.nn.init.zeros_(network.roi_heads.box_predictor.bbox_pred.weight)
    torch.nn.init.zeros_(network.rpn.head.bbox_pred.weight)
    return experts.create("keypoint_rcnn", checkpoint=_file(network, folder / "keypoint_rcnn.pth"), **options)


def rtmpose(folder: Path, model: str = "m", **options: Any) -> Any:
    """RTMPose whose bins have smooth peaks, as trained ones have."""
    import torch

    from dataengine.experts.rtmpose import NETWORKS, empty_network

    torch.manual_seed(0)
    network = empty_network(model)
    x = 4 * _picture(*NETWORKS[model].size) - 2
    for last in (network.head.cls_x, network.head.cls_y):
        last.weight.data = _smooth(last.weight.data)
    _settle(network, lambda: network(x))
    bins = _answers([network.head.cls_x, network.head.cls_y], lambda: network(x))
    for last, found in zip((network.head.cls_x, network.head.cls_y), bins):
        last.weight.data *= 0.3 / float(found.std())
    return experts.create("rtmpose", model=model, checkpoint=_file(network, folder / f"rtmpose-{model}.pth"), **options)


def mmpose(folder: Path, model: str = "rtmpose-m", **options: Any) -> Any:
    """One of mmpose's networks."""
    import torch

    from dataengine.experts.mmpose import NETWORKS, empty_network
    from dataengine.experts.mmpose_shims import mmpose_importable

    torch.manual_seed(0)
    with mmpose_importable("random weights"):
        network = empty_network(model)
        if model.startswith("rtmo"):
            x, last = 255 * _picture(*NETWORKS[model].size), network.head.head_module

            def call() -> Any:
                return last(network.neck(network.backbone(x)))

            _settle(network, call)
            # a few cells in a hundred are people
            _tame(last.out_cls, 1.5, call, middle=-4.0)
            for layers, target in ((last.out_bbox, 0.4), (last.out_kpt_vis, 1.0), (last.out_pose, 1.0)):
                _tame(layers, target, call)
        else:
            x = 4 * _picture(*NETWORKS[model].size) - 2
            _settle(network, lambda: network.head(network.backbone(x)))
    return experts.create("mmpose", model=model, checkpoint=_file(network, folder / f"mmpose-{model}.pth"), **options)


def ultralytics(folder: Path, model: str = "yolo11n-pose", **options: Any) -> Any:
    """One of the YOLO pose networks."""
    import torch

    from dataengine.experts.ultralytics import empty_network

    torch.manual_seed(0)
    network = empty_network(model, "random weights")
    x, head = _picture(640, 640), network.model[-1]
    _settle(network, lambda: network(x))
    # a few cells in a hundred are people
    _tame([one[-1] for one in head.cv3], 1.5, lambda: network(x), middle=-4.0)
    for layers in (head.cv2, head.cv4):
        _tame([one[-1] for one in layers], 1.0, lambda: network(x))
    return experts.create("ultralytics", model=model, checkpoint=_file(network, folder / f"{model}.pt"), **options)


def viclip(folder: Path, size: str = "B/16", num_frames: int = 8) -> str:
    """The path of weights of ViCLIP as its publishers save them."""
    import safetensors.numpy

    from dataengine.features import viclip_towers
    from dataengine.features.viclip import random_weights
    from dataengine.features.viclip_sizes import SIZES

    towers = viclip_towers.build(SIZES[size], num_frames)
    drawn = random_weights({key: tuple(value.shape) for key, value in towers.state_dict().items()})
    path = folder / f"viclip-{size.replace('/', '').lower()}.safetensors"
    safetensors.numpy.save_file(drawn, path)
    return str(path)


def _settle(network: Any, call: Any) -> None:
    """Statistics of normalisation as one noisy picture gives them, so that values stay in range through all layers."""
    import torch

    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    with torch.no_grad():
        call()
    network.eval()


def _settle_frozen(network: Any, call: Any) -> None:
    """As `_settle`, for networks whose normalisation does not learn: each layer's as what reaches it has them."""
    import torch

    def settle(norm: Any, given: Any) -> None:
        norm.running_mean.copy_(given[0].mean((0, 2, 3)))
        norm.running_var.copy_(given[0].var((0, 2, 3)).clamp(min=1e-6))

    norms = [module for module in network.modules() if "running_mean" in dict(module.named_buffers(recurse=False))]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    with torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()


def _picture(width: int, height: int) -> Any:
    """A rendered person and coloured blocks, coarse and fine: (3, 3, height, width) in [0, 1]."""
    import torch

    frames = render_clip(3, 1, condition="clean").frames
    rendered = torch.from_numpy(letterbox(frames, (width, height), True, GREY).pixels).permute(0, 3, 1, 2).float() / 255
    blocks = [
        torch.nn.functional.interpolate(torch.rand(1, 3, height // k, width // k).round(), (height, width))
        for k in (4, 16)
    ]
    return torch.cat([rendered, *blocks])


def _smooth(weight: Any) -> Any:
    """Rows (bins, channels) so that neighbouring bins answer alike; a peak is about 12 bins wide, as SimCC's labels."""
    import torch

    bins = torch.arange(len(weight), dtype=torch.float32)
    near = torch.exp(-0.5 * ((bins[:, None] - bins) / 6) ** 2)
    return near @ torch.randn_like(weight) / near.sum(1, keepdim=True).sqrt()


def _tame(layers: Any, target: float, call: Any, middle: float = 0.0) -> None:
    """Last layers scaled so that what they give varies by `wanted` around `middle`."""
    import torch

    for module, output in zip(layers, _answers(layers, call)):
        with torch.no_grad():
            scale = target / float(output.std())
            module.weight *= scale
            others = (0, 2, 3) if output.ndim == 4 else tuple(range(output.ndim - 1))
            module.bias.copy_(middle - scale * (output.mean(others) - module.bias))


def _answers(layers: Any, call: Any) -> list[Any]:
    """What each layer gives during `call()`."""
    import torch

    found: dict[Any, Any] = {}
    hooks = [layer.register_forward_hook(lambda module, _, output: found.update({module: output})) for layer in layers]
    with torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()
    return [found[layer] for layer in layers]


def _file(network: Any, path: Path) -> str:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"meta": {"epoch": 1}, "state_dict": network.state_dict()}, path)
    return str(path)


def _saved(network: Any, folder: Path) -> str:
    from dataengine.experts.transformer_models import import_transformers

    with import_transformers("random weights"):
        network.save_pretrained(folder)
    return str(folder)
