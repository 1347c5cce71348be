"""Preferences that are text, as pairs of token ids: under the model's own chat template and by its own tokenizer.

The prompt is rendered once. What follows it, the steps before and then the chosen or the rejected one, is the
assistant's text, as fine-tuning tokenises it. Each step's ids are those that it has after the steps before, so chosen
and rejected share the ids of all that stands before them. Where a tokenizer would merge the end of one step with the
beginning of the next into one token, the next step is tokenised alone: a border between steps is never inside a token,
as in sampling. How often that happened is counted.

Special tokens in the texts are text. Nothing is added but the line break that ends a step which another one follows. No
token that ends a turn is added: a preference says nothing of where to stop.
"""

from __future__ import annotations

from psr_runtime.data.records import Pair, Preference
from psr_runtime.prompts.grammar import is_final
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer

OUTSIDE = "outside"
"""In the place of a model's digest: no model of ours sampled these steps."""


class PairEncoder:
    """Makes pairs for one model.

    Args:
        tokenizer: of the model, with its chat template.
        templates: the solver prompt, for preferences that hold a problem.

    Attributes:
        pairs: how many were made.
        merged: how many of them had steps that were tokenised alone.
    """

    def __init__(self, tokenizer: Tokenizer, templates: Templates) -> None:
        self._tokenizer, self._templates = tokenizer, templates
        self.pairs = 0
        self.merged = 0

    def pair(self, preference: Preference, number: int) -> Pair:
        """The pair of a preference.

        Args:
            number: of the preference in its data set, from 1; becomes the problem's id.

        Raises:
            DataError: the chat template refuses the messages.
        """
        messages = preference.messages
        if messages is None:
            messages = self._templates.solve_messages(preference.problem)
        before = ""
        merged = False
        path_ids = []
        for step in preference.steps:
            ids, alone = self._continued(before, _line(step))
            path_ids.append(ids)
            before += _line(step)
            merged |= alone
        chosen, chosen_alone = self._continued(before, _ended(preference.chosen, preference.whole))
        rejected, rejected_alone = self._continued(before, _ended(preference.rejected, preference.whole))
        self.pairs += 1
        self.merged += merged or chosen_alone or rejected_alone
        return Pair(
            problem_id=f"p{number}",
            iteration=0,
            level=len(preference.steps) + 1,
            attempt=0,
            prompt_ids=self._tokenizer.prompt_ids(messages),
            path_ids=path_ids,
            chosen_ids=chosen,
            rejected_ids=rejected,
            chosen_ended="stop",
            rejected_ended="stop",
            scores=[1, 0],
            multiplicity=[1, 1],
            no_verdict=0,
            model_digest=OUTSIDE,
            tokenizer_digest=self._tokenizer.digest,
            template_digest=self._tokenizer.template_digest,
            prompt="\n".join([preference.problem or messages[-1]["content"], *preference.steps]),
            chosen=preference.chosen,
            rejected=preference.rejected,
        )

    def said(self) -> list[str]:
        """What a person should know of the pairs that were made; empty where none was."""
        if not self.pairs:
            return []
        lines = [f"{self.pairs} preferences that are text were tokenised under the model's chat template"]
        if self.merged:
            lines.append(
                f"in {self.merged} of them a token would have joined two steps; these steps are tokenised alone"
            )
        return lines

    def _continued(self, before: str, text: str) -> tuple[list[int], bool]:
        """Ids of `text` after `before`, and whether they had to be those of the text alone."""
        head, whole, alone = self._tokenizer.texts_ids([before, before + text, text])
        if not before:
            return alone, False
        if whole[: len(head)] == head and len(whole) > len(head):
            return whole[len(head) :], False
        return alone, True


def _line(step: str) -> str:
    return step.rstrip() + "\n"


def _ended(text: str, whole: bool) -> str:
    """A step with the line break that it owns; the last step of a solution, and a whole answer, have none."""
    return text if whole else text.rstrip() if is_final(text) else _line(text)
