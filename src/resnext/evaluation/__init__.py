"""Evaluation of trained networks: metrics, tables, plots and the report; predictions on new images."""
