"""Detection: Faster R-CNN on our networks (Section 5.4)."""
