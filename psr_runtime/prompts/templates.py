"""Solver and judge prompts as text. One function builds each, for training, search and evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from psr_runtime.config import Prompts
from psr_runtime.prompts.marks import MessageText
from psr_runtime.protocol.errors import ConfigurationError

SOLVE = "{problem}"
JUDGE = ("{Question and Partial Reasoning Steps}", "{Step A}", "{Step B}")


@dataclass(frozen=True)
class Templates:
    """The two prompt templates and the system message of a run.

    Attributes:
        solve: text with `{problem}` once.
        judge: text with each of `JUDGE` once.
        system: system message, or None to send none.
    """

    solve: str
    judge: str
    system: str | None = None

    @classmethod
    def of(cls, prompts: Prompts) -> Templates:
        """Templates of a configuration, the paper's where it names none.

        Raises:
            ConfigurationError: a placeholder is missing or stands twice.
        """
        solve = prompts.solve if prompts.solve is not None else _quoted("solve.txt")
        judge = prompts.judge if prompts.judge is not None else _quoted("judge.txt")
        for name, template, placeholders in (("solve", solve, (SOLVE,)), ("judge", judge, JUDGE)):
            for placeholder in placeholders:
                if template.count(placeholder) != 1:
                    raise ConfigurationError(
                        f"prompts.{name}: {placeholder} must stand in it exactly once, "
                        f"found {template.count(placeholder)} times"
                    )
        return cls(solve, judge, prompts.system_message)

    def solve_messages(self, problem: str) -> list[dict[str, str]]:
        """Chat messages that ask for a solution of `problem`."""
        return self._messages(_fill(self.solve, {SOLVE: problem}))

    def judge_messages(self, problem: str, steps: Sequence[str], a: str, b: str) -> list[dict[str, str]]:
        """Chat messages that ask which of two next steps is better. Paper Figure 5.

        Args:
            problem: the problem's text.
            steps: the steps before, each with its `Step n: ` header.
            a, b: the candidates, headers kept; all steps are right-stripped here.
        """
        so_far = "\n".join([problem.rstrip(), *(step.rstrip() for step in steps)])
        return self._messages(_fill(self.judge, dict(zip(JUDGE, (so_far, a.rstrip(), b.rstrip()), strict=True))))

    def _messages(self, text: MessageText) -> list[dict[str, str]]:
        system = [{"role": "system", "content": MessageText.of([self.system])}] if self.system is not None else []
        return [*system, {"role": "user", "content": text}]


def _fill(template: str, values: dict[str, str]) -> MessageText:
    """Replace each placeholder once, literally: nothing in an inserted text is read as a placeholder.

    The inserted texts are data: special tokens in them are text, those of the template are tokens.
    """
    pieces = [template]
    for placeholder, value in values.items():
        at = next(index for index, piece in enumerate(pieces) if index % 2 == 0 and placeholder in piece)
        before, _, after = pieces[at].partition(placeholder)
        pieces[at : at + 1] = [before, value, after]
    return MessageText.of(pieces)


def _quoted(name: str) -> str:
    return files("psr_runtime.prompts").joinpath(name).read_text(encoding="utf-8").removesuffix("\n")
