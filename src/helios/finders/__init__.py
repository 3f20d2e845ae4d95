"""Searches before training: for a learning rate, and for the largest batch that fits."""

from helios.finders.batch_size import find_batch_size
from helios.finders.learning_rate import LearningRates, find_learning_rate

__all__ = ["LearningRates", "find_batch_size", "find_learning_rate"]
