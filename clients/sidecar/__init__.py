"""An example of a client beside the inference server: a folder of videos and pictures in, JSON lines out."""
