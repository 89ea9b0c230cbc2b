"""Results drawn into pictures. Needs the extra "video"."""

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videoai import masks, shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from videoai.inference.v1 import inference_pb2

Colour = tuple[int, int, int]

# Told apart by most people, colour-blind ones included, on light and on dark pictures (Okabe and Ito, brightened).
_COLOURS: tuple[Colour, ...] = (
    (255, 176, 0),
    (86, 180, 233),
    (0, 190, 140),
    (240, 228, 66),
    (230, 97, 60),
    (220, 140, 200),
    (60, 130, 230),
    (170, 220, 60),
)
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def colour(class_id: int) -> Colour:
    """Return the colour of a class as R, G, B of 0..255; the same class has the same one everywhere."""
    if class_id < len(_COLOURS):
        return _COLOURS[class_id]
    red, green, blue = colorsys.hsv_to_rgb(class_id * _GOLDEN_RATIO % 1, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def annotate(picture: Image.Image, result: inference_pb2.FrameResult) -> None:
    """Draw all that was found, and the version that found it, into `picture`: RGB, as displayed, of the result's size.

    Masks are half transparent, and keypoints drawn from a score of 0.5. Raises ValueError for a mask that does not fit.
    """
    for detection in reversed(result.detections):  # the best score on top
        _fill(picture, detection)
    draw = ImageDraw.Draw(picture)
    scale = max(1, round(min(picture.size) / 360))
    font = ImageFont.load_default(size=6 + 6 * scale)
    for detection in reversed(result.detections):
        _outline(draw, detection, scale)
        shapes.keypoints(draw, detection, colour(detection.class_id), scale)
    # Names are on top of all that is drawn.
    for detection in reversed(result.detections):
        _label(draw, font, _corner(detection), _name(detection), colour(detection.class_id), above=True)
    bottom = _label(draw, font, (0, 0), f"{result.model_name} v{result.model_version}", (255, 255, 255))
    for found in result.classifications:
        bottom = _label(draw, font, (0, bottom), _name(found), colour(found.class_id))


def contact_sheet(frames: Sequence[Image.Image], columns: int, *, width: int = 320) -> Image.Image:
    """Return one RGB picture with all `frames` in rows of `columns`, each `width` pixels wide, in reading order."""
    if not frames or columns < 1:
        raise ValueError(f"contact_sheet: expected frames and columns >= 1, got {len(frames)} and {columns}")
    tiles = [frame.resize((width, max(1, round(frame.height * width / frame.width)))) for frame in frames]
    height, gap = max(tile.height for tile in tiles), 4
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), (32, 32, 32))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(tile, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet


def _fill(picture: Image.Image, detection: inference_pb2.Detection) -> None:
    if not detection.HasField("mask"):
        return
    mask = masks.decode(detection.mask, *picture.size)
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    if len(columns):
        left, top = int(columns[0]), int(rows[0])
        part = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
        picture.paste(colour(detection.class_id), (left, top), Image.fromarray(part.astype(np.uint8) * 128))


def _outline(draw: ImageDraw.ImageDraw, detection: inference_pb2.Detection, scale: int) -> None:
    if detection.HasField("oriented_box"):
        first, second, *rest = map(shapes.on_pixels, shapes.corners(detection.oriented_box))
        # Over the first edge twice: that joins the last corner, too.
        line = [first, second, *rest, first, second]
        draw.line(line, fill=colour(detection.class_id), width=2 * scale, joint="curve")
        return
    box = detection.box
    right, bottom = max(box.x_min, box.x_max - 1), max(box.y_min, box.y_max - 1)
    draw.rectangle((box.x_min, box.y_min, right, bottom), outline=colour(detection.class_id), width=2 * scale)


def _corner(detection: inference_pb2.Detection) -> tuple[float, float]:
    """Where a detection's name goes: its highest corner, the left one of two."""
    if detection.HasField("oriented_box"):
        return min(shapes.corners(detection.oriented_box), key=lambda point: (point[1], point[0]))
    return detection.box.x_min, detection.box.y_min


def _name(found: inference_pb2.Detection | inference_pb2.Classification) -> str:
    return f"{found.class_name or f'class {found.class_id}'} {found.score:.2f}"


def ink(background: Colour) -> Colour:
    """Return black or white, whichever is easier to read on `background`."""
    linear = [(part / 255) ** 2.2 for part in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Where the contrasts with black and with white are the same.
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _label(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    corner: tuple[float, float],
    text: str,
    background: Colour,
    *,
    above: bool = False,
) -> float:
    """Write `text` at a corner, or above it, inside the picture; return where the next line begins."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = max(0.0, min(corner[0], draw.im.size[0] - width))
    y = max(0.0, corner[1] - height if above else corner[1])
    draw.rectangle((x, y, x + width, y + height), fill=background)
    draw.text((x + 3 - left, y + 3 - top), text, fill=ink(background), font=font)
    return y + height
