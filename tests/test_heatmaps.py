"""The heat map of a lens in the terminal: nothing left out, nothing harmful, and colours that all eyes can read."""

import dataclasses
import io
import itertools
import re
import typing

import pytest
from rich.color import Color, ColorSystem
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

import command_line
from bathyscope.cli import heatmaps
from bathyscope.lens_result import LensCell, LensResult
from bathyscope.readouts import Candidate
from command_line import TEXT

tiny, bathyscope, home = command_line.tiny, command_line.bathyscope, command_line.home
"""The fixtures that are used here."""


def made(lens: str, tokens: list[str], n_layers: int, share: float | None = None, k: int = 2) -> LensResult:
    """A result in which each cell says its layer and position, and its share rises with both unless it is given."""
    cells = []
    for position, token in enumerate(tokens):
        for layer in range(-1, n_layers):
            rising = (layer + 1 + position) / (n_layers + len(tokens) - 1) if share is None else share
            ranked = tuple(
                Candidate(rank, f" {'abc'[rank]}{layer}.{position}", rising / (rank + 1)) for rank in range(k)
            )
            cells.append(LensCell(layer, position, token, ranked[0].token, ranked))
    return LensResult(lens, "".join(tokens), tuple(cells), {"models": [{"model": "m"}]}, {}, {})


def printed(result: LensResult, width: int = 100, **settings: typing.Any) -> str:
    file = io.StringIO()
    heatmaps.show(result, Console(file=file, width=width, markup=False, highlight=False, emoji=False, **settings))
    return file.getvalue()


TOKENS = ["The", " capital", " of", " France", " is"]


def test_thirty_layers_of_five_tokens_are_one_map_of_eighty_columns():
    lines = printed(made("logit-lens", TOKENS, 30), 80).splitlines()
    (head,) = (index for index, line in enumerate(lines) if line.startswith("layer"))
    assert [*re.findall(r"\d \w+", lines[head])] == ["0 The", "1 capital", "2 of", "3 France", "4 is"]
    rows = lines[head + 1 : head + 32]
    assert [row.split()[0] for row in rows] == [*map(str, range(29, -1, -1)), "embed"]
    for row, layer in zip(rows, range(29, -2, -1), strict=True):
        shares = [(layer + 1 + position) / 34 for position in range(5)]
        assert row.split()[1:] == [
            word for position, share in enumerate(shares) for word in (f"a{layer}.{position}", f"{share:.0%}")
        ]
    assert len(lines) <= 40 and max(map(len, lines)) <= 80


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_wide_text_becomes_several_maps_that_leave_nothing_out(width):
    tokens = [f" token{number}" for number in range(14)]
    lines = printed(made("logit-lens", tokens, 4), width).splitlines()
    heads = [line for line in lines if line.startswith("layer")]
    assert [int(number) for line in heads for number in re.findall(r"(\d+) tok", line)] == list(range(14))
    assert max(map(len, lines)) <= width
    assert {word for line in lines for word in re.findall(r"a-?\d\.\d+", line)} == {
        f"a{layer}.{position}" for layer in range(-1, 4) for position in range(14)
    }


@pytest.mark.parametrize("width", [1, 6, 11, 17])
def test_a_terminal_that_is_too_narrow_gets_what_fits(width):
    text = printed(made("logit-lens", TOKENS, 2), width)
    assert len(re.findall(r"^layer [\d…]", text, re.MULTILINE)) == 5


def test_wide_characters_keep_columns_in_line():
    result = made("logit-lens", ["東京", " is"], 2)
    wide = [
        dataclasses.replace(cell, text="東京大学", candidates=(Candidate(0, "東京大学", 0.5),)) for cell in result.cells
    ]
    rows = [line for line in printed(dataclasses.replace(result, cells=tuple(wide))).splitlines() if "50%" in line]
    assert [row.count("東京大学") for row in rows] == [2, 2, 2]
    assert len({row.index("50%") for row in rows}) == 1


def test_what_is_cut_or_left_out_is_said():
    long = made("logit-lens", TOKENS, 2)
    cells = tuple(dataclasses.replace(cell, text=" incomprehensibilities") for cell in long.cells)
    said = " ".join(printed(dataclasses.replace(long, cells=cells), 80).split())
    assert "incompre…" in said and "Texts are cut to fit; --json and --out keep them whole." in said
    assert "Only the likeliest of 2 tokens is shown; --at INDEX, --json and --out have all." in said
    whole = " ".join(printed(made("logit-lens", TOKENS, 2, k=1), 80).split())
    assert "cut" not in whole and "Only" not in whole


def test_one_token_is_shown_with_all_its_candidates_and_so_is_one_layer():
    one = printed(made("logit-lens", TOKENS[:1], 2, share=0.5, k=3))
    assert re.search(r"^ +1 a1\.0 +50% b1\.0 +25% c1\.0 +17%$", one, re.MULTILINE) and "Only" not in one
    layer = printed(
        dataclasses.replace(
            whole := made("logit-lens", TOKENS, 2, share=0.5),
            cells=tuple(cell for cell in whole.cells if cell.layer == 1),
        )
    )
    assert re.search(r"^1 capital +a1\.1 +50% b1\.1 +25%$", layer, re.MULTILINE)


def test_spaces_that_say_nothing_are_left_out_and_those_that_are_all_are_seen():
    result = made("logit-lens", [" ", "\n"], 1)
    cells = tuple(dataclasses.replace(cell, text=" \xa0" if cell.position else " to ") for cell in result.cells)
    text = printed(dataclasses.replace(result, cells=cells))
    assert re.search(r"0 ␣ +1 ⏎", text) and re.search(r"embed to +0% ␣␣ +50%", text)


def test_without_colour_there_is_no_escape_code_and_no_legend_of_colours(bathyscope, tiny, monkeypatch):
    piped = bathyscope("lens", "logit-lens", TEXT, "--model", tiny).out
    assert "\x1b" not in piped and "probability" not in piped and "%" in piped
    monkeypatch.setenv("NO_COLOR", "1")
    plain = printed(made("logit-lens", TOKENS, 2), force_terminal=True)
    assert "38;" not in plain and "48;" not in plain and "probability" not in plain


def test_a_cell_has_the_colour_of_its_share_and_the_legend_tells_it():
    for share in (0.0, 0.124, 0.126, 0.49, 0.51, 0.88, 1.0):
        text = printed(made("logit-lens", TOKENS, 2, share), force_terminal=True, color_system="truecolor")
        row = next(line for line in text.splitlines() if "a1.0" in line)
        red, green, blue = Color.parse(heatmaps.RAMP[min(int(share * 8), 7)][0]).triplet
        assert row.count(f"48;2;{red};{green};{blue}m") >= 5
    assert re.sub(r"\x1b\[[\d;]*m", "", text).count("probability   0%  12%  25%  38%  50%  62%  75%  88%  to 100%") == 1


def luminance(color: Color) -> float:
    """Relative luminance as the Web Content Accessibility Guidelines define it."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (one / 255 for one in color.get_truecolor(DEFAULT_TERMINAL_THEME))
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("system", [ColorSystem.TRUECOLOR, ColorSystem.EIGHT_BIT])
def test_the_ramp_can_be_read_and_rises_in_brightness(system):
    """Contrast 4.5 is what the guidelines ask for; brightness is what every eye sees."""
    shown = [[luminance(Color.parse(name).downgrade(system)) for name in pair] for pair in heatmaps.RAMP]
    for background, text in shown:
        assert (max(background, text) + 0.05) / (min(background, text) + 0.05) >= 4.5
    backgrounds = [background for background, _ in shown]
    assert all(low < high for low, high in itertools.pairwise(backgrounds))


HOSTILE = "\x1b[31mred\x1b[0m \x9b2J \x07 \r [bold]markup[/bold] [/] :boom: \u202ereversed \u2028line\nnext"


def test_what_a_model_says_cannot_harm_the_terminal():
    result = made("logit-lens", [HOSTILE, " is"], 2)
    cells = [
        dataclasses.replace(cell, text=HOSTILE, candidates=(dataclasses.replace(cell.candidates[0], token=HOSTILE),))
        for cell in result.cells
    ]
    for some in (cells, cells[:3], [cell for cell in cells if cell.layer == 0]):
        hostile = dataclasses.replace(result, text=HOSTILE, cells=tuple(some))
        text = printed(hostile, 600, force_terminal=True, color_system="truecolor")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", plain)
        assert "\\x1b[31mred" in plain and "[bold]markup[/bold] [/] :boom:" in plain and "\\u202e" in plain
        assert "\x1b[31m" not in text


def test_texts_are_coloured_by_how_much_the_vector_caused_them(bathyscope, tiny):
    result = made("selfie", TOKENS[:2], 1)
    cells = tuple(
        dataclasses.replace(cell, text="a whole sentence", candidates=(), relevancy=(1.0, 0.8)) for cell in result.cells
    )
    text = printed(dataclasses.replace(result, cells=cells), force_terminal=True, color_system="truecolor")
    red, green, blue = Color.parse(heatmaps.RAMP[7][0]).triplet
    assert text.count(f"48;2;{red};{green};{blue}m") == 4 + 1 and "relevancy" in text
    done = bathyscope("lens", "selfie", TEXT, "--layers", "0-1", "--new-tokens", "3", "--model", tiny)
    assert done.code == 0 and "4 Wales" in done.out and "%" not in done.out


def test_weights_are_shown_by_unit(bathyscope, tiny):
    done = bathyscope("lens", "embedding-space", "mlp_post.1", "--units", "0,4-5", "--top", "2", "--model", tiny)
    assert done.code == 0 and f"embedding-space: mlp_post.1 of {tiny}" in done.out
    assert re.findall(r"^unit +#1|^ +(\d) ", done.out, re.MULTILINE) == ["", "0", "4", "5"]
