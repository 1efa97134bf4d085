"""Export of Faster R-CNN to ONNX and OpenVINO, with preprocessing and selection of detections in the graph."""
