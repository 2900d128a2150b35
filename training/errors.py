"""Everything training raises on purpose. In every case the model that is live stays live.

EvershelfError
└── TrainingError
    ├── NotEnoughData      the lake is too small for the time split; nothing was trained
    ├── UnusableData       a file to evaluate on is not there or not of the form that it must have; nothing was trained
    ├── TrainingRunning    the same training runs already in another process
    ├── HostUnfit          a host of the training does not see its folder, or lacks a GPU for each rank; nothing was trained
    ├── RankLost           Horovod ranks ended early again and again; the last checkpoint stays, the same command resumes from it
    ├── LossDiverged       the loss is not a number or grew; nothing was exported
    ├── ExportFailed       the exported rankers disagree; nothing was exported
    ├── RankerRefused      a shop's own ranker does not agree, cannot be run or is too slow; nothing was brought
    └── CannotReproduce    a model's lineage cannot be replayed here; nothing was trained
"""

from evershelf.errors import EvershelfError


class TrainingError(EvershelfError):
    pass


class NotEnoughData(TrainingError):
    pass


class UnusableData(TrainingError):
    pass


class TrainingRunning(TrainingError):
    pass


class HostUnfit(TrainingError):
    pass


class RankLost(TrainingError):
    pass


class LossDiverged(TrainingError):
    pass


class ExportFailed(TrainingError):
    pass


class RankerRefused(TrainingError):
    pass


class CannotReproduce(TrainingError):
    pass
