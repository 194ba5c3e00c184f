"""From a department's source to rows that a model can learn from: the public face of ``client/tables``.

The split is drawn from the department's own seed, the same for the same seed and data, and nobody else learns it.
Training rows fit everything; validation rows only choose; test rows are read once, for the report.
"""

from commonroot.client.tables.config import DataConfig, FeatureConfig, SplitConfig, WindowConfig
from commonroot.client.tables.features import Features
from commonroot.client.tables.numbers import Scaler
from commonroot.client.tables.part import STANDARD_LIMIT
from commonroot.client.tables.pinned import Pin
from commonroot.client.tables.prepare import FEWEST_ROWS, prepare, training_rows
from commonroot.client.tables.problems import Problem, Problems, refuse
from commonroot.client.tables.read import kept_columns, open_data, read_batches, read_cells, read_features
from commonroot.client.tables.rows import Prepared, Rows, judged, learnable
from commonroot.client.tables.source import Reading
from commonroot.client.tables.split import folds, split_rows
from commonroot.common.backbone.inputs import ImageInput, Input, RowInput, SequenceInput, TokenInput

__all__ = [
    "FEWEST_ROWS",
    "STANDARD_LIMIT",
    "DataConfig",
    "FeatureConfig",
    "Features",
    "ImageInput",
    "Input",
    "Pin",
    "Prepared",
    "Problem",
    "Problems",
    "Reading",
    "RowInput",
    "Rows",
    "Scaler",
    "SequenceInput",
    "SplitConfig",
    "TokenInput",
    "WindowConfig",
    "folds",
    "judged",
    "kept_columns",
    "learnable",
    "open_data",
    "prepare",
    "read_batches",
    "read_cells",
    "read_features",
    "refuse",
    "split_rows",
    "training_rows",
]
