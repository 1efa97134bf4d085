"""Evaluation of detectors: inference, COCO metrics, tables, plots and the report."""
