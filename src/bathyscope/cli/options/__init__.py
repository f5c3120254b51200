"""The options of the commands: their names, help and panels, one file a panel.

What they mean together is in `choices`. Help shows an example of each, and a test reads the examples.
"""

from bathyscope.cli.options.controls import ControlNames, ControlSeed, ControlTexts
from bathyscope.cli.options.debugging import Debug, Session, remember_debug
from bathyscope.cli.options.fit import (
    Column,
    FitAhead,
    Method,
    Positions,
    SavedMap,
    Seed,
    SourceLayers,
    TargetLayers,
    TextFile,
)
from bathyscope.cli.options.lens import (
    Ahead,
    Fitted,
    LensAt,
    LensName,
    LensText,
    LensTop,
    SelfieTokens,
    Suppressed,
    To,
    Token,
    Units,
)
from bathyscope.cli.options.model import Attention, Dtype, ModelName, Revision, SourceModel, TargetModel
from bathyscope.cli.options.output import OUTPUT, AsJson, Explain, Memory, Out, Stored
from bathyscope.cli.options.read import At, Layers, Text
from bathyscope.cli.options.show import NewTokens, NextToken, Top
from bathyscope.cli.options.write import (
    Chat,
    Factor,
    MappingName,
    OwnPrompt,
    Placeholder,
    PromptName,
    TargetLayer,
)

__all__ = [
    "OUTPUT",
    "Ahead",
    "AsJson",
    "At",
    "Attention",
    "Chat",
    "Column",
    "ControlNames",
    "ControlSeed",
    "ControlTexts",
    "Debug",
    "Dtype",
    "Explain",
    "Factor",
    "FitAhead",
    "Fitted",
    "Layers",
    "LensAt",
    "LensName",
    "LensText",
    "LensTop",
    "MappingName",
    "Memory",
    "Method",
    "ModelName",
    "NewTokens",
    "NextToken",
    "Out",
    "OwnPrompt",
    "Placeholder",
    "Positions",
    "PromptName",
    "Revision",
    "SavedMap",
    "Seed",
    "SelfieTokens",
    "Session",
    "SourceLayers",
    "SourceModel",
    "Stored",
    "Suppressed",
    "TargetLayer",
    "TargetLayers",
    "TargetModel",
    "Text",
    "TextFile",
    "To",
    "Token",
    "Top",
    "Units",
    "remember_debug",
]
