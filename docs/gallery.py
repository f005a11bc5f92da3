"""The gallery: a page of every estimator and quantizer, made from the code.

  python docs/gallery.py --out=runs/gallery/index.html      (make gallery)

For each member: its doc string (formula, value at zero, what differs from the
paper), a plot of the function and of its gradient as the code computes them,
over progress where a hyper-parameter is a schedule, the value at zero, the
reference, and which official vectors its test reads. One file, no network.
"""

from __future__ import annotations

import dataclasses
import html
import inspect
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jbin import estimators, quantizers, references, schedules  # noqa: E402
from tests.golden import members as golden  # noqa: E402

_OUT = flags.DEFINE_string("out", "runs/gallery/index.html", "The page.")

POINTS = 161
REACH = 2.0
PROGRESS = (0.0, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Curve:
  """A function and its gradient at one progress.

  Attributes:
    progress: None where nothing is scheduled.
    x: the points.
    value: y at the points.
    gradient: dy/dx at the points.
    at_zero: y at 0.
  """

  progress: float | None
  x: np.ndarray
  value: np.ndarray
  gradient: np.ndarray
  at_zero: float


# --- What is plotted ----------

# Arguments of estimators that have no default; a schedule is plotted over
# progress, as the paper's recipe has it.
ARGUMENTS: dict[str, dict[str, Any]] = {
  "clipped_round": {"low": -2.0, "high": 2.0},
  "reste_sign": {"o": schedules.quarter_cosine(1.0, 3.0)},
  "ede_sign": {"t": schedules.exponential(0.1, 10.0)},
  "rbnn_sign": {"t": schedules.exponential(0.01, 10.0)},
  "fda_sign": {"n": schedules.staircase(9, 18)},
  "sine_sign": {"omega": 5.0},
  "dsq": {"low": -2.0, "high": 2.0, "bits": 2},
  # One draw for each point: drawn once, as a step of training would.
  "stochastic_sign": {
    "draw": np.random.default_rng(0).random(POINTS, np.float32)
  },
}
# Members that need another call than their name alone.
MAKERS: dict[str, Callable[[], quantizers.Quantizer]] = {
  "delayed": lambda: quantizers.delayed(quantizers.sign(), 0.5),
}
# Members that compare the entries of the last axis: one row of all points.
OF_A_ROW = (quantizers.sab,)


def _grid() -> np.ndarray:
  return np.linspace(-REACH, REACH, POINTS, dtype=np.float32)


def _estimator_curve(name: str, progress: float | None, **hypers: Any) -> Curve:
  function = estimators.REGISTRY.get(name)
  now = {key: schedules.value(h, progress) for key, h in hypers.items()}
  x = jnp.asarray(_grid())
  value, pull = jax.vjp(lambda x: function(x, **now), x)
  (gradient,) = pull(jnp.ones_like(value))
  return _curve(progress, x, value, gradient)


def _curve(progress: float | None, x: Any, value: Any, gradient: Any) -> Curve:
  x, value, gradient = (np.asarray(a, np.float64) for a in (x, value, gradient))
  return Curve(progress, x, value, gradient, float(value[POINTS // 2]))


def _quantizer_curve(
  spec: quantizers.Quantizer, progress: float | None
) -> Curve:
  """The value and the diagonal of its Jacobian, on one channel or row."""
  row = isinstance(spec, OF_A_ROW)
  shape = (1, 1, 1, POINTS) if row else (1, POINTS, 1, 1)
  x = jnp.asarray(_grid()).reshape(shape)
  key = jax.random.key(0)
  variables = {
    **spec.parameters(1, x, key if spec.seeded else None),
    **spec.statistics(1, x),
  }
  now = None if progress is None else jnp.float32(progress)
  if variables and spec.statistics(1, x):
    statistics = {name: variables[name] for name in spec.statistics(1, x)}
    variables |= spec.update(x, progress=now, **statistics)

  def value(flat: jax.Array) -> jax.Array:
    tensor = flat.reshape(x.shape)
    return spec(tensor, progress=now, **variables).value.reshape(-1)

  flat = x.reshape(-1)
  jacobian = jax.jit(jax.jacrev(value))(flat)
  return _curve(progress, flat, value(flat), jnp.diagonal(jacobian))


def curves_of_estimator(name: str) -> list[Curve]:
  """The curves of an estimator; three where a hyper-parameter is scheduled."""
  hypers = ARGUMENTS.get(name, {})
  moments = PROGRESS if schedules.is_scheduled(*hypers.values()) else (None,)
  return [_estimator_curve(name, moment, **hypers) for moment in moments]


def curves_of_quantizer(name: str) -> list[Curve]:
  """The curves of a quantizer as its name alone makes it."""
  spec = MAKERS.get(name, quantizers.REGISTRY.get(name))()
  moments = PROGRESS if spec.scheduled else (None,)
  return [_quantizer_curve(spec, moment) for moment in moments]


# --- The plot ----------

WIDTH, HEIGHT, EDGE = 300, 180, 32


def plot(curves: Sequence[Curve], which: str) -> str:
  """One SVG: "value" or "gradient" of every curve over x."""
  values = [getattr(curve, which) for curve in curves]
  finite = np.concatenate([v[np.isfinite(v)] for v in values] + [np.zeros(1)])
  low, high = float(finite.min()), float(finite.max())
  # A spike (a series of cosines, a steep sigmoid) must not flatten the rest.
  high = min(high, 4 * max(1.0, float(np.percentile(abs(finite), 90))))
  room = 0.08 * max(high - low, 1e-3)
  low, high = low - room, high + room

  def at(x: float, y: float) -> tuple[float, float]:
    return (
      EDGE + (x + REACH) / (2 * REACH) * (WIDTH - 2 * EDGE),
      HEIGHT - EDGE - (y - low) / (high - low) * (HEIGHT - 2 * EDGE),
    )

  left, zero = at(-REACH, 0.0)
  right, _ = at(REACH, 0.0)
  middle, bottom = at(0.0, low)
  _, top = at(0.0, high)
  across = f"M{left:.1f} {zero:.1f}H{right:.1f}"
  axes = f"{across}M{middle:.1f} {bottom:.1f}V{top:.1f}"
  parts = [
    f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{which}">',
    f'<path class="axis" d="{axes}"/>',
  ]
  for index, (curve, y) in enumerate(zip(curves, values, strict=True)):
    path = _path(curve.x, np.clip(y, low, high), at)
    parts.append(f'<path class="line c{index}" d="{path}"/>')
  for x in (-REACH, -1.0, 1.0, REACH):
    px, _ = at(x, 0.0)
    parts.append(
      f'<text x="{px:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{x:g}</text>'
    )
  for y in (low + room, high - room):
    _, py = at(0.0, y)
    parts.append(
      f'<text x="{EDGE - 4}" y="{py + 3:.1f}" text-anchor="end">{y:.2g}</text>'
    )
  parts.append("</svg>")
  return "".join(parts)


def _path(
  xs: np.ndarray,
  ys: np.ndarray,
  at: Callable[[float, float], tuple[float, float]],
) -> str:
  """A line that is broken where the value is not a number."""
  out, pen = [], "M"
  for x, y in zip(xs, ys, strict=True):
    if not np.isfinite(y):
      pen = "M"
      continue
    px, py = at(float(x), float(y))
    out.append(f"{pen}{px:.1f} {py:.1f}")
    pen = "L"
  return "".join(out)


# --- The page ----------


def _prose(text: str) -> str:
  """A doc string as HTML: paragraphs, and code between backticks."""
  out = []
  for block in re.split(r"\n\s*\n", text.strip()):
    if re.match(r"(Args|Attributes|Raises|Returns):", block):
      out.append(f"<pre>{html.escape(block)}</pre>")
      continue
    safe = html.escape(" ".join(block.split()))
    out.append("<p>" + re.sub(r"`([^`]*)`", r"<code>\1</code>", safe) + "</p>")
  return "\n".join(out)


def _legend(curves: Sequence[Curve]) -> str:
  if curves[0].progress is None:
    return ""
  items = "".join(
    f'<span class="c{i}">progress {curve.progress:g}</span>'
    for i, curve in enumerate(curves)
  )
  return f'<p class="legend">{items}</p>'


def _call(member: Callable[..., Any]) -> str:
  """Its arguments with their defaults, without types."""
  signature = inspect.signature(member)
  plain = [
    parameter.replace(annotation=inspect.Parameter.empty)
    for parameter in signature.parameters.values()
  ]
  bare = inspect.Signature(plain)
  return str(bare)


def card(family: str, name: str, curves: Sequence[Curve]) -> str:
  """One member."""
  registry = {"estimators": estimators, "quantizers": quantizers}[family]
  member = registry.REGISTRY.get(name)
  keys = references.of(member)
  entries = "\n\n".join(references.entries()[key] for key in keys)
  zeros = ", ".join(dict.fromkeys(f"{c.at_zero:.4g}" for c in curves))
  call = _call(member)
  safe = html.escape
  return f"""
<article id="{family}-{name}">
<h3>{name}<small>{safe(call)}</small></h3>
<div class="plots">
<figure>{plot(curves, "value")}<figcaption>forward</figcaption></figure>
<figure>{plot(curves, "gradient")}<figcaption>gradient</figcaption></figure>
</div>{_legend(curves)}
<p class="facts"><b>At zero</b> {zeros} &middot; <b>Checked against</b>
{safe(golden.status(family, name))}</p>
{_prose(inspect.getdoc(member) or "")}
<details><summary>BibTeX</summary><pre>{safe(entries) or "none"}</pre></details>
</article>"""


STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5b6675;--paper:#fbfbf9;
--card:#fff;--rule:#dfe3e8;--c0:#2f6fbd;--c1:#c2571a;--c2:#2f8f4e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b3;
--paper:#14181d;--card:#1b2027;--rule:#313842;--c0:#6aa5ee;--c1:#ee955c;
--c2:#67c487}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:74rem;padding:1.5rem;font:15px/1.55 system-ui,
sans-serif;color:var(--ink);background:var(--paper)}
h1{margin:.2rem 0}h2{margin:2.5rem 0 1rem}
nav{columns:13rem;font-size:.9rem;margin:1rem 0}
a{color:var(--c0);text-decoration:none}a:hover{text-decoration:underline}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(34rem,
100%),1fr));gap:1.2rem;align-items:start}
article{background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:1rem 1.2rem;min-width:0}
h3{margin:0 0 .5rem;font-size:1.15rem}
h3 small{font:12px/1.4 ui-monospace,monospace;color:var(--soft);display:block;
overflow-wrap:anywhere}
.plots{display:grid;grid-template-columns:1fr 1fr;gap:.5rem}
figure{margin:0}figcaption{text-align:center;color:var(--soft);font-size:.8rem}
svg{width:100%;height:auto}svg text{font-size:10px;fill:var(--soft)}
.axis{stroke:var(--rule);fill:none}.line{fill:none;stroke-width:1.8;
stroke-linejoin:round}
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}
.legend{display:flex;gap:1rem;font-size:.85rem;margin:.2rem 0}
.legend .c0{color:var(--c0)}.legend .c1{color:var(--c1)}
.legend .c2{color:var(--c2)}
.facts{font-size:.88rem;color:var(--soft)}
code{font-size:.92em}pre{white-space:pre-wrap;overflow-wrap:anywhere;
font-size:12px;line-height:1.45;color:var(--soft);margin:.4rem 0}
p{margin:.45rem 0;overflow-wrap:anywhere}summary{cursor:pointer;
font-size:.85rem;color:var(--soft)}
"""


def page() -> str:
  """The whole page."""
  sections, index = [], []
  families = {
    "estimators": (estimators.REGISTRY, curves_of_estimator),
    "quantizers": (quantizers.REGISTRY, curves_of_quantizer),
  }
  for family, (members, curves) in families.items():
    names = sorted(members)
    cards = [card(family, name, curves(name)) for name in names]
    sections.append(
      f'<h2 id="{family}">{family.capitalize()} ({len(names)})</h2>'
      f'<div class="cards">{"".join(cards)}</div>'
    )
    links = (f'<a href="#{family}-{n}">{n}</a><br>' for n in names)
    index.append(f"<h2>{family.capitalize()}</h2><nav>{''.join(links)}</nav>")
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f"<title>jbin: gallery</title><style>{STYLE}</style></head><body>"
    "<h1>Estimators and quantizers of jbin</h1>"
    "<p>Made from the code by <code>make gallery</code>. An estimator is a"
    " function with a stated gradient; a quantizer normalises, estimates and"
    " scales. Quantizers are plotted on one channel that runs from -2 to 2 in"
    " even steps (statistics are those of this channel); the gradient is"
    " dy/dx of an entry by itself.</p>"
    f"{''.join(index)}{''.join(sections)}</body></html>\n"
  )


def main(argv: Sequence[str]) -> None:
  del argv
  out = pathlib.Path(_OUT.value)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(page(), encoding="utf-8")
  print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
  app.run(main)
