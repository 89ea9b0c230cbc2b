import numpy as np

from inference_server.detection import Options, Settings, place, recognise


def test_raw_outputs_hold_no_detections(signature):
    family = recognise(signature(outputs=((1, 7), (1, 2, 3))), Settings(family="tensors"))
    outputs = {"output0": np.ones(7, np.float32), "output1": np.ones((2, 3), np.float32)}
    family.check(outputs)
    assert len(family.decode(outputs, place(family.picture.layout, 10, 10), Options())) == 0
