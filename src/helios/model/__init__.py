"""Models, which a user writes and a trainer trains."""

from helios.model.model import MODEL_REGISTRY, Model, create_model

__all__ = ["MODEL_REGISTRY", "Model", "create_model"]
