"""A second `psr run` on the same folder: finished work is taken over where its artefact is still there."""

from __future__ import annotations

from pathlib import Path

from world import World, run_of


def test_a_finished_run_starts_nothing_again(tmp_path: Path) -> None:
    World(tmp_path, run_of(rounds=2)).finish()
    again = World(tmp_path, run_of(rounds=2), artefacts=True)
    assert again.condition() == ("Ready", "Succeeded")
    assert again.node.order == []
    assert again.node.servers == {}
    assert [model.name for model in again.root.status.models] == ["M1", "M2", "M3"]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    first = World(tmp_path, run_of(rounds=2))
    while "run-2-pairs-search-a1" not in first.node.specs:
        assert first.step()
    again = World(tmp_path, run_of(rounds=2), artefacts=True)
    again.finish()
    assert again.condition() == ("Ready", "Succeeded")
    assert "run-sft-a1" not in again.node.order
    assert "run-1-dpo-a1" not in again.node.order
    assert "run-2-pairs-search-a1" in again.node.order


def test_where_an_artefact_is_gone_its_stage_is_asked(tmp_path: Path) -> None:
    first = World(tmp_path, run_of(rounds=1))
    first.finish()
    again = World(tmp_path, run_of(rounds=1), artefacts=False)
    again.finish()
    assert again.node.order == first.node.order


def test_a_changed_spec_is_not_taken_for_the_finished_one(tmp_path: Path) -> None:
    World(tmp_path, run_of(rounds=1)).finish()
    again = World(tmp_path, run_of(rounds=1, seed=1), artefacts=True)
    again.finish()
    assert "run-sft-a1" in again.node.order
