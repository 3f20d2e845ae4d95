"""Models: what is trained."""

from helios.model.model import MODEL_REGISTRY, Model, create_model

__all__ = ["MODEL_REGISTRY", "Model", "create_model"]
