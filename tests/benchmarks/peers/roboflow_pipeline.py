"""Frames per second of Roboflow's InferencePipeline: python roboflow_pipeline.py MODEL.onnx VIDEO FRAMES SIDE.

Its own models come from its hub; a file of one's own runs as custom logic, here with the package's letterbox and its
suppression around ONNX Runtime. The file is run twice and the second run counts. One line of JSON on standard output.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
from inference import InferencePipeline
from inference.core.nms import w_np_non_max_suppression
from inference.core.utils.preprocess import letterbox_image

COUNTED = 0


def logic(session: onnxruntime.InferenceSession, side: int) -> Any:
    name = session.get_inputs()[0].name

    def on_frames(frames: list[Any]) -> list[Any]:
        pictures = [letterbox_image(frame.image, (side, side), color=(114, 114, 114)) for frame in frames]
        batch = np.stack(pictures)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
        answers = [session.run(None, {name: picture[None]})[0][0] for picture in batch]
        rows = [np.ascontiguousarray(answer.T) for answer in answers]
        # Centre, size and class scores; it wants an objectness of its own, too.
        full = [np.insert(row, 4, row[:, 4:].max(axis=1), axis=1) for row in rows]
        return list(w_np_non_max_suppression(np.stack(full), conf_thresh=0.25, iou_thresh=0.7, box_format="xywh"))

    return on_frames


def count(predictions: Any, _: Any) -> None:
    global COUNTED
    COUNTED += len(predictions) if isinstance(predictions, list) else 1


def main() -> None:
    global COUNTED
    path, video, frames, side = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(2):
        COUNTED, start = 0, perf_counter()
        pipeline = InferencePipeline.init_with_custom_logic(
            video_reference=video, on_video_frame=logic(session, int(side)), on_prediction=count
        )
        pipeline.start()
        pipeline.join()
        taken = perf_counter() - start
    print(json.dumps({"frames_per_second": int(frames) / taken, "frames": int(frames)}))


if __name__ == "__main__":
    main()
