"""The page's frame, messages and answers as HTML. Everything that comes from a file is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from bench.demo.answers import Answer, Answers

HINT = "Draw a digit and the models say what they see."
UNREADABLE = "This picture is too large or cannot be read. A smaller one will do."
NO_INK = "There is nothing on the canvas that looks like ink. Draw a digit, a little larger or darker."
NO_CHECKPOINT = "There is no trained model in {folder} yet. This command makes two of them; then come back here:"
COMMAND = "python -m bench.run --models cnn mobilenet"

CSS = """
footer { display: none !important; }
#board h1 { font-size: 1.7rem; font-weight: 700; margin: 0 0 4px; }
#board .lead { margin: 0 0 16px; }
#board .columns { display: grid; grid-template-columns: minmax(0, 500px) minmax(0, 1fr); gap: 18px 32px;
  grid-template-areas: "drawing right" "clicking right"; grid-template-rows: max-content 1fr; }
#board .drawing { grid-area: drawing; }
#board .right { grid-area: right; }
#board .clicking { grid-area: clicking; }
@media (max-width: 760px) {
  #board .columns { grid-template-columns: minmax(0, 1fr); grid-template-areas: "drawing" "clicking" "right"; }
}
#board .paper { display: flex; justify-content: center; align-items: center; width: 100%; aspect-ratio: 1;
  background: var(--background-fill-secondary); border: 2px solid var(--border-color-primary); border-radius: 10px;
  overflow: hidden; }
#board canvas { max-width: 100%; max-height: 100%; background: #fff; cursor: crosshair; touch-action: none; }
#board canvas[width="800"][height="800"] { width: 100%; height: 100%; }
#board .buttons { display: flex; gap: 8px; margin: 10px 0 0; }
#board .buttons button { flex: 1 1 auto; min-height: 44px; padding: 0 6px;
  white-space: nowrap; border: 1px solid var(--border-color-primary); border-radius: 8px;
  background: var(--background-fill-secondary); color: var(--body-text-color); font-size: .95rem;
  cursor: pointer; }
#board .buttons button:hover, #board .samples button:hover { border-color: #2563eb; }
#board .samples { display: grid; grid-template-columns: repeat(10, 1fr); gap: 6px; margin-top: 6px; }
@media (max-width: 760px) { #board .samples { grid-template-columns: repeat(5, 1fr); } }
#board .samples button { padding: 0; margin: 0; border: 1px solid var(--border-color-primary); border-radius: 6px;
  overflow: hidden; cursor: pointer; background: #fff; }
#board .samples img { display: block; width: 100%; margin: 0 !important; }
#board .note { color: #b91c1c; }
#board .note:not(:empty) { margin-bottom: 12px; }
.dark #board .note { color: #fca5a5; }
#board .thinking .results { opacity: .6; }
.answers { display: flex; flex-direction: column; gap: 14px; }
.answers .verdict { font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
.answers .verdict.apart { color: #b45309; }
.dark .answers .verdict.apart { color: #fbbf24; }
.answers .seen { display: flex; gap: 14px; align-items: center; }
.answers .seen img { width: 112px; height: 112px; image-rendering: pixelated; border-radius: 6px; flex: none;
  margin: 0; }
.answers .quiet { opacity: .75; font-size: .9rem; }
.answers .model { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 10px 14px; }
.answers .name { display: flex; justify-content: space-between; flex-wrap: wrap; gap: 2px 12px; margin-bottom: 6px; }
.answers .name b { overflow-wrap: anywhere; }
.answers .bar { display: grid; grid-template-columns: minmax(1.6em, max-content) 1fr 4.2em; gap: 10px;
  align-items: center; margin: 4px 0; }
.answers .bar .track { background: var(--background-fill-secondary); border-radius: 4px; height: 16px; }
.answers .bar .fill { background: #2563eb; border-radius: 4px; height: 16px; min-width: 2px; }
.answers .bar .share { text-align: right; font-variant-numeric: tabular-nums; }
.answers code { padding: 6px 10px; border-radius: 6px; background: var(--background-fill-secondary); }
.answers .message { font-size: 1.1rem; }
"""


def board(title: str, samples: Mapping[str, Image.Image]) -> str:
    """Return the page's frame: canvas, buttons, samples to click on, and a place for the answers."""
    pictures = "".join(
        f'<button type="button" aria-label="the sample {escape(name)}"><img alt="{escape(name)}" '
        f'src="{_data_uri(picture)}"></button>'
        for name, picture in samples.items()
    )
    return f"""<h1>{escape(title)}</h1>
<p class="lead">Draw a digit with mouse, pen or finger. Or open, drop or paste a picture of one: a photo of paper will
do.</p>
<div class="columns">
  <div class="drawing">
    <div class="paper"><canvas aria-label="canvas to draw a digit on"></canvas></div>
    <div class="buttons">
      <button type="button" class="clear">Clear</button>
      <button type="button" class="undo">Undo</button>
      <button type="button" class="open">Open a picture</button>
      <input type="file" accept="image/*" hidden>
    </div>
  </div>
  <div class="right"><div class="note" role="alert"></div><div class="results"></div></div>
  <div class="clicking">
    <div>Or click on one of these:</div>
    <div class="samples">{pictures}</div>
  </div>
</div>"""


def message(text: str, more: str = "") -> str:
    """Return a message in place of answers; ``more`` is HTML to put below it."""
    return _page(f'<div class="message">{escape(text)}</div>{more}')


def no_checkpoint(folder: str, problems: Sequence[str] = ()) -> str:
    """Return the message for a folder without a usable model."""
    return message(NO_CHECKPOINT.format(folder=folder), f"<code>{escape(COMMAND)}</code>{_problems(problems)}")


def answered(results: Answers) -> str:
    """Return the verdict, the image that the models saw, and the bars of each model."""
    if results.seen is None:
        return message(NO_INK, _problems(results.problems))
    apart, words = verdict(results.answers)
    seen = (
        f'<div class="seen"><img alt="the drawing in 28 x 28 pixels" src="{_data_uri(Image.fromarray(results.seen))}">'
        f'<div class="quiet">What the models really see: your drawing in 28 x 28 pixels, as MNIST would show it. '
        f"Made in {results.preprocessing_ms:.0f} ms.</div></div>"
    )
    heading = f'<div class="verdict{" apart" if apart else ""}">{escape(words)}</div>'
    cards: dict[str, list[Answer]] = {}
    for answer in results.answers:  # the best first, so each card begins with the best of its seeds
        cards.setdefault(answer.label, []).append(answer)
    return _page(heading + seen + "".join(map(_card, cards.values())) + _problems(results.problems))


def verdict(answers: Sequence[Answer]) -> tuple[bool, str]:
    """Return (whether models of the same classes disagree, the verdict in words)."""
    groups: dict[tuple[str, ...], list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.class_names, []).append(answer)
    apart, sentences = False, []
    for group in groups.values():
        votes: dict[str, list[str]] = {}
        for answer in group:
            votes.setdefault(answer.top[0][0], []).append(answer.model)
        if len(group) == 1:
            sentences.append(f"{group[0].model} says {group[0].top[0][0]}.")
        elif len(votes) == 1:
            number = "Both" if len(group) == 2 else f"All {len(group)}"
            sentences.append(f"{number} models say {group[0].top[0][0]}.")
        else:
            apart = True
            parts = [
                f"{' and '.join(models)} {'say' if len(models) > 1 else 'says'} {name}"
                for name, models in votes.items()
            ]
            sentences.append(f"The models disagree: {', '.join(parts)}.")
    return apart, " ".join(sentences)


def _card(answers: Sequence[Answer]) -> str:
    """Return the card of a job: the bars of its best seed, and a line with the answers of its other seeds."""
    answer, *others = answers
    about = []
    if answer.test_accuracy is not None:
        about.append(f"{100 * answer.test_accuracy:.2f} % right on {escape(answer.dataset or 'its')} test images")
    about.append(f"{answer.milliseconds:.1f} ms")
    bars = "".join(
        f'<div class="bar"><span class="class">{escape(name)}</span>'
        f'<div class="track"><div class="fill" style="width:{100 * share:.1f}%"></div></div>'
        f'<span class="share">{100 * share:.1f} %</span></div>'
        for name, share in answer.top
    )
    name = f'<div class="name"><b>{escape(answer.model)}</b><span class="quiet">{", ".join(about)}</span></div>'
    said = [f"{each.model.removeprefix(each.label + ', ')} says {_first(each)}" for each in others]
    more = f'<div class="quiet seeds">{escape("; ".join(said))}</div>' if said else ""
    return f'<div class="model">{name}{bars}{more}</div>'


def _first(answer: Answer) -> str:
    name, share = answer.top[0]
    return f"{name} ({100 * share:.1f} %)"


def _problems(problems: Sequence[str]) -> str:
    return "".join(f'<div class="quiet">Left out: {escape(problem)}</div>' for problem in problems)


def _page(content: str) -> str:
    return f'<div class="answers" aria-live="polite">{content}</div>'


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
