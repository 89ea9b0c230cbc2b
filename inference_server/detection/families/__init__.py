"""The families of models that this server reads, one module each. A new one is added to KINDS, and nowhere else."""

from inference_server.detection.families import (
    detr,
    rf_detr,
    rtdetr,
    tensors,
    yolo_classify,
    yolo_detect,
    yolo_obb,
    yolo_pose,
    yolo_segment,
    yolov5,
    yolox,
)

KINDS = (
    yolo_detect.KIND,
    yolo_detect.KIND_END2END,
    yolo_segment.KIND,
    yolo_segment.KIND_END2END,
    yolo_pose.KIND,
    yolo_pose.KIND_END2END,
    yolo_obb.KIND,
    yolo_obb.KIND_END2END,
    yolo_classify.KIND,
    yolov5.KIND,
    yolox.KIND,
    yolox.KIND_DECODED,
    rtdetr.KIND,
    detr.KIND,
    rf_detr.KIND,
    rf_detr.KIND_SEGMENT,
    tensors.KIND,
)

__all__ = ["KINDS"]
