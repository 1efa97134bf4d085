"""Faster R-CNN around a network: layouts, RPN, RoIAlign, fused norms."""
