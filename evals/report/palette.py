"""Colours of the report: each name has a shade for light paper and one for dark.

The six colours of series keep apart for people with any of the three colour blindnesses: they
follow Okabe and Ito's set, darkened for light paper until text in them can be read on it too.

Source: Okabe and Ito 2008, "Color Universal Design"; contrast: WCAG 2.2, success criterion 1.4.3.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shade:
    """A colour on light and on dark paper, as #rrggbb; no two names share one on light paper."""

    light: str
    dark: str


COLOURS = {
    "paper": Shade("#fffffe", "#15181c"),
    "raised": Shade("#f5f6f7", "#1e2227"),
    "ink": Shade("#1b1f24", "#e8eaec"),
    "muted": Shade("#59616b", "#a4adb8"),
    "rule": Shade("#d8dce1", "#363c44"),
    "blue": Shade("#005fa3", "#68b5f0"),
    "orange": Shade("#a84f00", "#f2a35e"),
    "green": Shade("#00704f", "#4fcb9f"),
    "purple": Shade("#8c3f7f", "#e09fd3"),
    "red": Shade("#b3261e", "#ff8f86"),
    "slate": Shade("#4a5c75", "#9db4d3"),
}
SERIES = ("blue", "orange", "green", "purple", "slate", "red")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)))  # the second and third round of colours


def light(name: str) -> str:
    """Give a colour as it is drawn on light paper."""
    return COLOURS[name].light


def of_series(number: int) -> str:
    """Give the colour of a series; they begin again after the sixth, with other dashes."""
    return light(SERIES[number % len(SERIES)])


def dashes_of(number: int) -> object:
    """Give the line style of a series, in matplotlib's words."""
    return DASHES[number // len(SERIES) % len(DASHES)]


def style_sheet() -> str:
    """Declare all colours as CSS variables, the dark ones for dark screens."""
    pale = "".join(f"--{name}:{shade.light};" for name, shade in COLOURS.items())
    dark = "".join(f"--{name}:{shade.dark};" for name, shade in COLOURS.items())
    return (
        f":root{{color-scheme:light;{pale}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}"
    )


def contrast(one: str, other: str) -> float:
    """Give the contrast of two colours, from 1 to 21."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """Give the relative luminance of a colour."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
