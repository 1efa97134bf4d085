"""Object detection: Faster R-CNN on ResNeXt backbones (Section 5.4 of the paper)."""
