"""Detection data: COCO and VOC annotations, the box policy, the data loader."""
