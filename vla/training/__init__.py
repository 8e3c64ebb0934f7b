"""Objectives, the training loop, checkpoints."""

from vla.training.checkpoint import Checkpoint as Checkpoint
from vla.training.checkpoint import CheckpointError as CheckpointError
from vla.training.checkpoint import newest_checkpoint as newest_checkpoint
from vla.training.config import DataConfig as DataConfig
from vla.training.config import OptimConfig as OptimConfig
from vla.training.config import TrainConfig as TrainConfig
from vla.training.loop import RunResult as RunResult
from vla.training.loop import train as train
from vla.training.objective import Objective as Objective
from vla.training.objective import ObjectiveConfig as ObjectiveConfig
from vla.training.trainer import TrainingDivergedError as TrainingDivergedError
