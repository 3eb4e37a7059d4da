"""The desk page's colours: text can be read on every ground that it has, in both themes."""

import re

import pytest
from repository import ROOT

LEAST = 4.5  # contrast of text, WCAG 2 level AA
SHEET = (ROOT / "causalcine_jax/serve/page/style/colours.css").read_text("utf-8")
THEMES = dict(zip(("dark", "light"), re.findall(r":root \{(.*?)\}", SHEET, re.DOTALL), strict=True))


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read(theme):
    text, grounds = colours(theme)
    faint = {
        f"{name} on {ground}": round(contrast(text[name], grounds[ground]), 2)
        for name in ("text", "soft", "faint", "accent", "fault")
        for ground in grounds
    }
    faint["on-accent on accent"] = contrast(text["on-accent"], text["accent"])
    assert {pair: value for pair, value in faint.items() if value < LEAST} == {}


def test_contrast_of_known_colours():
    assert contrast((255, 255, 255), (0, 0, 0)) == pytest.approx(21)
    assert contrast((255, 255, 255), (119, 119, 119)) == pytest.approx(4.48, abs=0.01)


def colours(theme):
    """Colours of text, and of what it is on: the tint over each ground is one too."""
    found = {}
    for name, digits in re.findall(r"--([\w-]+): #([0-9a-f]+);", THEMES[theme]):
        digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
        found[name] = tuple(bytes.fromhex(digits))
    grounds = {name: found[name] for name in ("ground", "raised", "field")}
    *tint, percent = map(int, re.findall(r"\d+", re.search(r"--tint: (.*);", THEMES[theme])[1]))
    for name in ("ground", "raised"):
        over = zip(tint, found[name], strict=True)
        grounds[f"tint over {name}"] = [(percent * a + (100 - percent) * b) / 100 for a, b in over]
    return found, grounds


def contrast(one, other):
    """WCAG 2's contrast ratio of two sRGB colours of 0 to 255."""
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour):
    parts = [channel / 255 for channel in colour]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
