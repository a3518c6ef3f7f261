"""Training recipe of the vovcam detector: data, network, assignment, losses, export."""

CLASSES = (
    "person", "bicycle", "car", "motorcycle", "bus", "train",
    "truck", "cat", "dog", "horse", "sheep", "cow",
)  # fmt: skip
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
PAD_VALUE = 114
STRIDES = (8, 16, 32)
BOX_BINS = 16
