"""Datasets, and data loaders that can resume at any batch."""

from helios.data.batch_samplers import ResumableBatchSampler
from helios.data.datamodule import (
    DATASET_REGISTRY,
    TRANSFORM_REGISTRY,
    DataModule,
    DatasetParams,
    create_dataset,
    create_transform,
)
from helios.data.loader import (
    COLLATE_FN_REGISTRY,
    DataLoaderParams,
    create_collate_fn,
    create_dataloader,
)
from helios.data.samplers import (
    SAMPLER_REGISTRY,
    ResumableDistributedSampler,
    ResumableRandomSampler,
    ResumableSampler,
    ResumableSamplerType,
    ResumableSequentialSampler,
    ResumableWeightedSampler,
    create_sampler,
)
from helios.data.splits import DatasetSplit
from helios.data.streams import StreamPosition

__all__ = [
    "COLLATE_FN_REGISTRY",
    "DATASET_REGISTRY",
    "SAMPLER_REGISTRY",
    "TRANSFORM_REGISTRY",
    "DataLoaderParams",
    "DataModule",
    "DatasetParams",
    "DatasetSplit",
    "ResumableBatchSampler",
    "ResumableDistributedSampler",
    "ResumableRandomSampler",
    "ResumableSampler",
    "ResumableSamplerType",
    "ResumableSequentialSampler",
    "ResumableWeightedSampler",
    "StreamPosition",
    "create_collate_fn",
    "create_dataloader",
    "create_dataset",
    "create_sampler",
    "create_transform",
]
