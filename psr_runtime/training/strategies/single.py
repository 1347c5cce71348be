"""`training.strategy` Single: one process on one device, the first CUDA device or the processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainingArguments

from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.training.update_trainer import UpdateTrainer


class Single:
    """See `Strategy`."""

    def arguments(self, settings: Mapping[str, Any]) -> TrainingArguments:
        """See `Strategy.arguments`; a distributed launcher is refused."""
        arguments = TrainingArguments(**settings)
        if arguments.world_size > 1:
            raise ConfigurationError("training runs as one process here; start it without a distributed launcher")
        arguments._n_gpu = min(arguments.n_gpu, 1)  # more visible devices would be wrapped in DataParallel
        return arguments

    def trainer(self, **parts: Any) -> UpdateTrainer:
        """See `Strategy.trainer`."""
        return UpdateTrainer(**parts)

    def whole(self, model: Any) -> Any:
        """See `Strategy.whole`; nothing is shared out."""
        return model
