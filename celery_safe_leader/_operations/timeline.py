"""Draws who led when, as SVG: one lane for each candidate.

Gaps, handovers and crashes differ in shape and pattern, not in colour alone. All text is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from celery_safe_leader._operations.output import duration, moment, plain
from celery_safe_leader._operations.tenure_history import Ended, PastPause, PastTenure

__all__ = ["ENDINGS", "Timeline", "draw", "page"]

_WIDTH, _LABELS, _RIGHT = 960, 190, 24
_TOP, _LANE, _BAR = 68, 30, 16
_LONGEST_LABEL = 26
"""Characters."""
_TICKS = (
    *(0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200),
    *(10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_592_000),
)
"""Seconds between two ticks."""
_MOST_TICKS = 7
_HALF_TICK = 30
"""Units that half of a tick's label takes."""
_LABEL_EVERY = 80
"""Units between two labels of gaps, at least."""

ENDINGS = {
    Ended.NOT: "leads, as far as is known",
    Ended.HANDOVER: "handed over",
    Ended.STOOD_DOWN: "stood down",
    Ended.SILENCE: "fell silent: crashed, hung or was cut off",
    Ended.UNKNOWN: "?",
}
_SHAPES = {
    Ended.NOT: "M0,-8 L6,-8 L14,0 L6,8 L0,8 Z",
    Ended.HANDOVER: "M0,-11 L10,0 L0,11 Z",
    Ended.STOOD_DOWN: "M-6,-6 L6,-6 L6,6 L-6,6 Z",
    Ended.SILENCE: "M-7,-7 L7,7 M7,-7 L-7,7",
    Ended.UNKNOWN: "M0,-11 L0,11",
}
_STYLE = """
svg{background:#fff;font:12px system-ui,sans-serif}
text{fill:#1a1a1a}.quiet{fill:#5a5a5a}
.lane{stroke:#d8d8d8}.tick{stroke:#ececec}
.bar{fill:#3b7dbd}.not{fill:#3b7dbd}
.handover{fill:#1b4f80}.stood-down{fill:#b45f06}
.silence{stroke:#b00020;stroke-width:3.5;fill:none}.unknown{stroke:#5a5a5a;stroke-width:2}
.gap-edge{stroke:#b00020;stroke-dasharray:3 3;stroke-width:1}
.pause{stroke:#6b4fa0}
"""
_PATTERNS = """
<defs>
<pattern id="gap{name}" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="8" height="8" fill="#fdecee"/><line x1="0" y1="0" x2="0" y2="8" stroke="#d98894" stroke-width="3"/>
</pattern>
<pattern id="pause{name}" width="6" height="6" patternUnits="userSpaceOnUse">
<rect width="6" height="6" fill="#efeaf8"/><circle cx="3" cy="3" r="1.5" fill="#6b4fa0"/>
</pattern>
</defs>
"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is drawn."""

    title: str
    tenures: Sequence[PastTenure]
    pauses: Sequence[PastPause]
    from_us: int
    to_us: int
    """Later than ``from_us``; until when it is known who led."""


class _Canvas:
    """Where things are."""

    def __init__(self, timeline: Timeline, name: str) -> None:
        self.timeline = timeline
        self.name = name
        self.lanes = list(dict.fromkeys(each.holder for each in timeline.tenures))
        self.has_pauses = bool(timeline.pauses)
        self.bottom = _TOP + _LANE * (len(self.lanes) + self.has_pauses)
        self.height = self.bottom + 92
        self.length = max(1, timeline.to_us - timeline.from_us)

    def x(self, at_us: int) -> float:
        share = (at_us - self.timeline.from_us) / self.length
        return _LABELS + min(1.0, max(0.0, share)) * (_WIDTH - _LABELS - _RIGHT)

    def patterned(self, kind: str) -> str:
        return f'class="{kind}" fill="url(#{kind}{self.name})"'

    def y(self, holder: str) -> float:
        return _TOP + _LANE * (self.lanes.index(holder) + self.has_pauses + 0.5)


def draw(timeline: Timeline, name: str = "") -> str:
    """Return an SVG document of its own, 960 wide, that scales.

    Args:
        timeline: What is drawn.
        name: Within a page that has the style already: what the picture is called there. A page may
            forbid styles that are not in a file of its own.
    """
    canvas = _Canvas(timeline, name)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {canvas.height:g}" '
        f'role="img" aria-label="{_text(timeline.title, 200)}">',
        "" if name else f"<style>{_STYLE}</style>",
        _PATTERNS.replace("{name}", name),
        f'<text x="8" y="20" font-size="15" font-weight="600">{_text(timeline.title, 90)}</text>',
        f'<text x="8" y="38" class="quiet">{_text(_span(timeline), 110)}</text>',
        *_ticks(canvas),
        *_gaps(canvas),
        *_lanes(canvas),
        *_pause_lane(canvas),
        *_bars(canvas),
        *_legend(canvas),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def page(timelines: Sequence[Timeline], table: Sequence[Sequence[str]]) -> str:
    """Return an HTML page with pictures and a table, which fetches nothing.

    Args:
        timelines: One for each election.
        table: Rows; the first is the head.
    """
    head, *rows = table
    cells = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell, 300)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    title = _text(timelines[0].title if timelines else "Nobody has led", 200)
    pictures = "".join(f'<div class="wide">{draw(each)}</div>\n' for each in timelines)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body{{font:14px system-ui,sans-serif;color:#1a1a1a;background:#fff;margin:1rem}}
.wide{{overflow-x:auto;margin-bottom:1rem}}.wide svg{{min-width:760px;max-width:1400px;width:100%}}
table{{border-collapse:collapse}}th,td{{text-align:left;padding:.25rem .75rem .25rem 0}}
th,td{{white-space:nowrap}}td{{border-top:1px solid #ddd}}
</style></head><body>
{pictures}<div class="wide"><table><thead><tr>{cells}</tr></thead>
<tbody>
{body}</tbody></table></div>
</body></html>
"""


def _text(text: str, longest: int = 120) -> str:
    return html.escape(plain(text, longest))


def _span(timeline: Timeline) -> str:
    length = duration((timeline.to_us - timeline.from_us) / 1e6)
    return f"{moment(timeline.from_us)} to {moment(timeline.to_us)}, {length}"


def _ticks(canvas: _Canvas) -> Iterator[str]:
    length = canvas.length / 1e6
    step = next((each for each in _TICKS if length / each <= _MOST_TICKS), length)
    step_us = max(1, round(step * 1e6))
    at = -(-canvas.timeline.from_us // step_us) * step_us
    while at <= canvas.timeline.to_us:
        x = canvas.x(at)
        yield f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{canvas.bottom}"/>'
        # To the right of the last tick there may be too little room.
        is_last = x + _HALF_TICK > _WIDTH
        place, anchor = (_WIDTH, "end") if is_last else (x, "middle")
        yield (
            f'<text class="quiet" x="{place:.1f}" y="{canvas.bottom + 16}" text-anchor="{anchor}">'
            f"{_clock(at, step)}</text>"
        )
        at += step_us


def _clock(at_us: int, step: float) -> str:
    when = datetime.fromtimestamp(at_us / 1e6, timezone.utc)
    if step >= 86_400:
        return f"{when:%b %d}"
    if step >= 60:
        return f"{when:%H:%M}"
    return f"{when:%H:%M:%S}" if step >= 1 else f"{when:%S.%f}"[:-4]


def _gaps(canvas: _Canvas) -> Iterator[str]:
    """Draw the stretches in which nobody led, over all lanes."""
    labelled = 0.0
    for tenure in canvas.timeline.tenures:
        if tenure.ended in (Ended.NOT, Ended.UNKNOWN) or tenure.to_us is None:
            continue
        end = tenure.next_us if tenure.next_us is not None else canvas.timeline.to_us
        left, right = canvas.x(tenure.to_us), canvas.x(end)
        if right - left < 1:
            continue
        length = duration(max(0.0, (end - tenure.to_us) / 1e6))
        so_far = "" if tenure.next_us is not None else " so far"
        yield (
            f"<g><title>nobody led for {length}{so_far}</title>"
            f'<rect {canvas.patterned("gap")} x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
            f'height="{canvas.bottom - _TOP}"/>'
        )
        for x in (left, right):
            yield (
                f'<line class="gap-edge" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" '
                f'y2="{canvas.bottom}"/>'
            )
        middle = (left + right) / 2
        if middle - labelled > _LABEL_EVERY:
            labelled = middle
            yield (f'<text x="{middle:.1f}" y="{_TOP - 5}" text-anchor="middle">{length}</text>')
        yield "</g>"


def _lanes(canvas: _Canvas) -> Iterator[str]:
    for holder in canvas.lanes:
        y = canvas.y(holder)
        yield f'<line class="lane" x1="{_LABELS}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        yield (
            f'<text x="8" y="{y + 4}"><title>{_text(holder, 300)}</title>'
            f"{_text(_ends(holder), _LONGEST_LABEL)}</text>"
        )


def _ends(holder: str) -> str:
    """Return how a long id begins and ends: pods of a deployment begin alike."""
    if len(holder) <= _LONGEST_LABEL:
        return holder
    half = (_LONGEST_LABEL - 1) // 2
    return f"{holder[:half]}…{holder[-half:]}"


def _pause_lane(canvas: _Canvas) -> Iterator[str]:
    if not canvas.has_pauses:
        return
    y = _TOP + _LANE / 2
    yield f'<text x="8" y="{y + 4}" class="quiet">paused</text>'
    for pause in canvas.timeline.pauses:
        left = canvas.x(pause.from_us)
        right = canvas.x(canvas.timeline.to_us if pause.to_us is None else pause.to_us)
        why = f": {pause.reason}" if pause.reason else ""
        yield (
            f"<g><title>{_text(f'paused by {pause.by}{why}', 300)}</title>"
            f'<rect {canvas.patterned("pause")} x="{left:.1f}" y="{y - _BAR / 2}" '
            f'width="{max(2.0, right - left):.1f}" height="{_BAR}"/></g>'
        )


def _bars(canvas: _Canvas) -> Iterator[str]:
    for tenure in canvas.timeline.tenures:
        start, end = canvas.timeline.from_us, canvas.timeline.to_us
        begin = start if tenure.from_us is None else tenure.from_us
        # Of a silence whose beginning is not known, only that it was before the next one began.
        last = next((at for at in (tenure.to_us, tenure.next_us) if at is not None), end)
        left, right, y = canvas.x(begin), canvas.x(last), canvas.y(tenure.holder)
        word = f" ({tenure.reason})" if tenure.reason else ""
        said = f"token {tenure.token}, {moment(tenure.from_us)} to {moment(tenure.to_us)}"
        yield (
            f"<g><title>{_text(f'{tenure.holder}, {said}: {ENDINGS[tenure.ended]}{word}', 400)}"
            f'</title><rect class="bar" x="{left:.1f}" y="{y - _BAR / 2}" '
            f'width="{max(2.0, right - left):.1f}" height="{_BAR}"/>'
            f"{_mark(tenure.ended, right, y)}</g>"
        )


def _mark(ended: Ended, x: float, y: float) -> str:
    name = ended.value
    return f'<path class="{name}" transform="translate({x:.1f},{y})" d="{_SHAPES[ended]}"/>'


def _legend(canvas: _Canvas) -> Iterator[str]:
    y = canvas.bottom + 44
    items = [
        (_mark(Ended.HANDOVER, 14, y), "handover"),
        (_mark(Ended.SILENCE, 14, y), "silence: crash, hang, cut off"),
        (_mark(Ended.STOOD_DOWN, 14, y), "stood down"),
        (_mark(Ended.NOT, 8, y), "leads, as far as is known"),
        (
            f'<rect {canvas.patterned("gap")} x="6" y="{y - 8}" width="22" height="16"/>',
            "nobody led",
        ),
        (
            f'<rect {canvas.patterned("pause")} x="6" y="{y - 8}" width="22" height="16"/>',
            "paused",
        ),
    ]
    for number, (shape, text) in enumerate(items):
        column, row = number % 3, number // 3
        yield f'<g transform="translate({8 + 250 * column},{24 * row})">{shape}'
        yield f'<text x="36" y="{y + 4}">{text}</text></g>'
