"""The stages in order of value, with their seconds on one GPU like an H200: nine minutes in all."""

from verify.gpu import kernels, memory, speed, sweep, training
from verify.gpu.part import Stage, nothing_more

STAGES = (
    Stage("kernels", 130.0, "verify.gpu.kernels", kernels.parts, kernels.conclude, kernels.finish),
    Stage("speed", 150.0, "verify.gpu.speed", speed.parts, speed.conclude),
    Stage("sweep", 60.0, "verify.gpu.sweep", sweep.parts, nothing_more),
    Stage("training", 140.0, "verify.gpu.training", training.parts, nothing_more),
    Stage("memory", 60.0, "verify.gpu.memory", memory.parts, nothing_more),
)
