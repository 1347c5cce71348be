"""One real server for all tests of this folder; its model changes as they go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import Checkpoints, checkpoint, random_model, updated

from harness.engine_server import EngineServer, start_server

torch.set_num_threads(1)  # models this small lose more to the second thread than they gain


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Every checkpoint that the real server is asked for."""
    place = tmp_path_factory.mktemp("checkpoints")
    m1, tied = random_model(seed=1), random_model(seed=4, tied=True)
    m2, tied_update = updated(m1, by=0.01, seed=2), updated(tied, by=0.01, seed=5)
    return Checkpoints(
        m1=checkpoint(place / "m1", m1, None),
        m2=checkpoint(place / "m2", m2, m1),
        small=checkpoint(place / "small", updated(m2, by=1e-7, seed=3), m2),
        warm=checkpoint(place / "warm", m2, m1, repetition_penalty=1.5, top_k=1, temperature=0.3),
        liar=checkpoint(place / "liar", m1, m1, marks=m2),
        tied=checkpoint(place / "tied", tied, None),
        tied_update=checkpoint(place / "tied-update", tied_update, tied),
    )


@pytest.fixture(scope="session")
def server(published: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    """A real server with a bearer key, started on `m1`."""
    folder: Path = tmp_path_factory.mktemp("server")
    with start_server(published.m1, folder, key="a-key") as running:
        yield running
