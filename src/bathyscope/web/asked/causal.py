"""What the causal questions share: how a metric's tokens are found, and how they are run and typed."""

from typing import Any

from bathyscope.model import Model
from bathyscope.readouts import answer_token
from bathyscope.web.asked.base import BUDGET, Running
from bathyscope.web.telling import tokens_of


def answered(model: Model, answer: str, after: str) -> int:
    """The id of the token that an answer begins with."""
    return answer_token(model, answer, after=after).id


def options(running: Running, model: Model, text: str) -> dict[str, Any]:
    """How a causal method is run for a page, which sees the tokens at once and all effects at the end."""

    def planned(plan: Any) -> None:
        running.planned(plan)
        running.job.tell("plan", tokens=tokens_of(model, text), cells=[])

    return {"store": running.store, "stop": running.stop, "budget": BUDGET, "planned": planned}
