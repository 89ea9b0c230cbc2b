"""Export every case from its configuration, with weights that nobody trained but that see hundreds of objects.

Runs in the exporters' own environment: python export.py FOLDER [NAME ...]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from cases import CASES, Case
from pictures import COUNT, pictures
from torch import nn
from ultralytics import RTDETR, YOLO

SEED = 7
Spread = tuple[float, float]  # deviation and mean of each channel


def inputs(case: Case) -> torch.Tensor:
    """What the model sees in the comparison, 0..1 (N, 3, height, width)."""
    height, width = case.size
    padded = np.full((COUNT, height, width, 3), 114, np.uint8)
    for index, picture in enumerate(pictures(*case.pictures)):
        top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
        padded[index, top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return torch.from_numpy(padded).permute(0, 3, 1, 2).float() / 255


def enliven(model: nn.Module, seen: torch.Tensor) -> None:
    """Make an untrained `model` answer differently to different places of `seen`: else all its boxes are alike."""
    with torch.no_grad():
        normalise(model, seen)
        layers = dict(last_layers(model.model[-1]))
        outputs = record(model, list(layers), seen)
        for layer, output in outputs.items():
            spread(layer, output, layers[layer])


def normalise(model: nn.Module, seen: torch.Tensor) -> None:
    """Give every batch normalisation the statistics of what it sees."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all it sees from here on
        norm.train()
    model(seen)
    for norm in norms:
        norm.momentum = 0.03
        norm.eval()


def record(model: nn.Module, layers: list[nn.Module], seen: torch.Tensor) -> dict[nn.Module, torch.Tensor]:
    """What each of `layers` gives, channels second; those that took no part are left out."""
    outputs: dict[nn.Module, torch.Tensor] = {}

    def keep(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        outputs[layer] = output.flatten(0, -2).unsqueeze(-1) if isinstance(layer, nn.Linear) else output

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    model(seen)
    for hook in hooks:
        hook.remove()
    return outputs


def spread(layer: nn.Module, output: torch.Tensor, wanted: Spread) -> None:
    """Scale `layer`, which gave `output`, to give each channel the deviation and mean `wanted`."""
    deviation, mean = wanted
    dimensions = [0, *range(2, output.ndim)]
    gain = deviation / (output.std(dim=dimensions) + 1e-6)
    layer.weight.mul_(gain.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.copy_(mean - (output.mean(dim=dimensions) - layer.bias) * gain)


def last_layers(head: nn.Module) -> Iterator[tuple[nn.Module, Spread]]:
    """The layers that make the numbers of `head`, each with how its outputs should lie."""
    match type(head).__name__:
        case "Classify":
            yield head.linear, (3.0, 0.0)
        case "RTDETRDecoder":
            yield from ((layer, (1.0, -3.5)) for layer in (*head.dec_score_head, head.enc_score_head))
        case _:
            for prefix in ("", "one2one_"):
                if getattr(head, f"{prefix}cv2", None) is not None:
                    yield from branches(head, prefix)


def branches(head: nn.Module, prefix: str) -> Iterator[tuple[nn.Module, Spread]]:
    """Boxes with an area, a few hundred anchors whose best class scores enough, and whatever comes besides."""
    boxes = (2.0, 1.0) if head.reg_max > 1 else (0.5, 6.0)
    classes = (0.8, -4.0) if head.nc > 10 else (0.8, -2.5)
    yield from ((branch[-1], boxes) for branch in getattr(head, f"{prefix}cv2"))
    yield from ((branch[-1], classes) for branch in getattr(head, f"{prefix}cv3"))
    if hasattr(head, "cv4_kpts"):
        yield from ((layer, (1.0, 0.0)) for layer in getattr(head, f"{prefix}cv4_kpts"))
    elif hasattr(head, "cv4"):
        yield from ((branch[-1], (1.0, 0.0)) for branch in getattr(head, f"{prefix}cv4"))


def export(name: str, folder: Path) -> None:
    """Make `folder`/`name`.onnx."""
    case = CASES[name]
    torch.manual_seed(SEED)
    model = (RTDETR if case.config.startswith("rtdetr") else YOLO)(case.config)
    enliven(model.model, inputs(case))
    with tempfile.TemporaryDirectory() as scratch:
        model.model.pt_path = str(Path(scratch) / f"{name}.pt")  # where the exporter puts its file
        shutil.move(
            model.export(format="onnx", **{**case.arguments, "imgsz": list(case.size)}), folder / f"{name}.onnx"
        )


def main(folder: str, *names: str) -> None:
    for name in names or CASES:
        if not (Path(folder) / f"{name}.onnx").exists():
            export(name, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
