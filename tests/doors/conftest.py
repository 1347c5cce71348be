"""The stages as their own tests run them: a stand-in for the server, tiny models."""

from tests.evaluation.test_evaluate_stage import evaluate, model
from tests.search.conftest import search, speaker
from tests.training.conftest import qwen, stage

__all__ = ["evaluate", "model", "qwen", "search", "speaker", "stage"]
