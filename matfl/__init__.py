"""matfl: analysis and reproduction of Many-Task Federated Learning (Cai et al., CVPR 2023 workshops)."""

__version__ = "0.1.0"
__all__ = ["__version__"]
