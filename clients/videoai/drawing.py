"""Results drawn into pictures. Needs the extra "video"."""

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

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
    """Draw boxes, names, scores and the version that answered into `picture`, an RGB picture as displayed."""
    draw = ImageDraw.Draw(picture)
    scale = max(1, round(min(picture.size) / 360))
    font = ImageFont.load_default(size=6 + 6 * scale)
    for detection in reversed(result.detections):  # the best score on top
        box = detection.box
        shade = colour(detection.class_id)
        draw.rectangle((box.x_min, box.y_min, box.x_max - 1, box.y_max - 1), outline=shade, width=2 * scale)
        name = detection.class_name or f"class {detection.class_id}"
        _label(draw, font, (box.x_min, box.y_min), f"{name} {detection.score:.2f}", shade, above=True)
    _label(draw, font, (0, 0), f"{result.model_name} v{result.model_version}", (255, 255, 255))


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


def _label(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    corner: tuple[float, float],
    text: str,
    background: Colour,
    *,
    above: bool = False,
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = max(0.0, min(corner[0], draw.im.size[0] - width))
    y = max(0.0, corner[1] - height if above else corner[1])
    draw.rectangle((x, y, x + width, y + height), fill=background)
    draw.text((x + 3 - left, y + 3 - top), text, fill=(0, 0, 0), font=font)
