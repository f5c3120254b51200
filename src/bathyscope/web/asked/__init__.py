"""What may be asked for: each kind of question as data, the public call that answers it, and how to type it instead."""

from typing import Annotated

from pydantic import Field

from bathyscope.web.asked.ablate import AblateAsked
from bathyscope.web.asked.base import Asked, Running
from bathyscope.web.asked.knockout import KnockoutAsked
from bathyscope.web.asked.lens import LensAsked
from bathyscope.web.asked.patch import PatchAsked
from bathyscope.web.asked.patchscope import PatchscopeAsked
from bathyscope.web.asked.steer import SteerAsked
from bathyscope.web.asked.trace import TraceAsked

Question = Annotated[
    PatchscopeAsked | LensAsked | TraceAsked | PatchAsked | KnockoutAsked | AblateAsked | SteerAsked,
    Field(discriminator="kind"),
]
"""Any of them, told apart by its `kind`."""

__all__ = ["Asked", "Question", "Running"]
