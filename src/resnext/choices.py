"""The words that several rooms take as an option: one ``Literal`` for each vocabulary.

Type checkers read it, and ``typing.get_args`` of it gives the choices of the command line and the checks of arguments.
What belongs to one room stands there: ``Form`` in ``model.architecture``, ``CropMode`` in ``settings``.
"""

from typing import Literal, get_args

Precision = Literal["fp32", "bf16", "fp16"]
"""What PyTorch computes convolutions in: float32, or bfloat16 or float16 by autocast."""

CheckpointName = Literal["last", "best"]
"""A checkpoint of a run: after the last epoch, or after the epoch with the best metric."""

Split = Literal["val", "train"]
"""A part of a data set: held-out or training images."""

CombineMethod = Literal["logits", "probabilities"]
"""What is averaged over the views of an image, or over the networks of an ensemble."""

EngineName = Literal["pytorch", "onnxruntime", "openvino"]
EngineChoice = Literal[EngineName, "auto"]
"""An inference engine, or the fastest of those that are installed."""

EnginePrecision = Literal["fp32", "bf16", "int8"]
PrecisionChoice = Literal[EnginePrecision, "auto"]
"""What an inference engine computes in, or the faster of fp32 and bf16."""

LatencyPrecision = Literal["fp32", "bf16", "auto"]
"""What latency is measured in: without int8, which needs calibration images."""

Goal = Literal["latency", "throughput"]
"""What an engine is chosen for: the time of one batch, or images per second."""

ExportFormat = Literal["onnx", "openvino", "torch-export"]
ExportPrecision = Literal["fp32", "int8"]

InputKind = Literal["pixels", "picture", "normalised"]
"""What an exported file takes; ``deploy.export_info.INPUTS`` has a sentence for each."""

CHECKPOINT_NAMES: tuple[CheckpointName, ...] = get_args(CheckpointName)
COMBINE_METHODS: tuple[CombineMethod, ...] = get_args(CombineMethod)
ENGINE_CHOICES: tuple[EngineChoice, ...] = get_args(EngineChoice)
EXPORT_PRECISIONS: tuple[ExportPrecision, ...] = get_args(ExportPrecision)
INPUT_KINDS: tuple[InputKind, ...] = get_args(InputKind)
GOALS: tuple[Goal, ...] = get_args(Goal)
LATENCY_PRECISIONS: tuple[LatencyPrecision, ...] = get_args(LatencyPrecision)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PRECISION_CHOICES: tuple[PrecisionChoice, ...] = get_args(PrecisionChoice)
SPLITS: tuple[Split, ...] = get_args(Split)
