"""One page of everything: our counterparts of the paper's figures, what they were made from, and what was not run."""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irl_ray.analysis import figures
from irl_ray.analysis.comparison import Row, method_table
from irl_ray.analysis.figures import Drawn
from irl_ray.analysis.questions import QUESTIONS, Question
from irl_ray.analysis.results import Results
from irl_ray.models.weights import code_revision

# What `irl-ray report --from-nothing` runs: files in tuned_configs, and looks inside models.
EXPERIMENTS = (
    "gridworld_methods",
    "gridworld_forced",
    "gridworld_cotrain",
    "gridworld_compile",
    "gridworld_alpha_sweep",
    "gridworld_alpha_sweep_cotrain",
    "gridworld_latent_sweep",
    "gridworld_taught_methods",
    "gridworld_whole_forced",
    "gridworld_whole_cotrain",
    "gridworld_whole_compile",
    "gridworld_whole_alpha_sweep",
    "gridworld_whole_alpha_sweep_cotrain",
    "gridworld_taught_alpha_sweep",
    "gridworld_whole_alpha_orders",
    "gridworld_taught_latent_sweep",
    "gridworld_whole_search",
    "gridworld_taught_lr_scan",
    "gridworld_whole_raw",
    "gridworld_question_mixer",
    "gridworld_question_tasks",
    "gridworld_question_noise",
    "ant_methods",
    "ant_forced",
    "ant_cotrain",
    "ant_compile",
)
ANT_DATA = "data/ant_clean"
LOOKS = (
    ("probe", "gridworld"),
    ("codes", "gridworld", "--temperature", "0.3"),
    ("probe", "gridworld_taught"),
    ("control", "gridworld_taught", "--steps", "800"),
    ("codes", "gridworld_taught", "--temperature", "0.3"),
    ("variance", "gridworld_taught", "--episodes", "256"),
    ("probe", "ant", "--data", ANT_DATA),
    ("control", "ant", "--data", ANT_DATA, "--steps", "600", "--episodes", "512", "--temperature", "0.2"),
    ("codes", "ant", "--data", ANT_DATA, "--episodes", "512", "--temperature", "0.2"),
    ("variance", "ant", "--episodes", "128"),
)
FROM_NOTHING = "irl-ray report --from-nothing results --out report"


@dataclass
class Section:
    """One figure of the page.

    Attributes:
        name: of its files.
        title: shown above it.
        paper: what the paper shows, in words.
        draw: makes it, or says by None that nothing was run.
        command: what makes its data.
    """

    name: str
    title: str
    paper: str
    draw: Callable[[Any, Results], Drawn | None]
    command: str


_GATES = {
    "switch_f1": "F1 of switches",
    "code_subgoal_accuracy": "code → subgoal probe",
    "injected_success": "injected, unseen order",
}
SECTIONS = (
    Section(
        "fig3_probe", "Fig. 3: what the layers tell about the subgoal",
        "Gridworld, 6 layers: about .3 at the input, a jump to about .5 at mid-depth, about .6 later.",
        figures.probe_by_layer, "irl-ray probe MODEL --out X.json",
    ),
    Section(
        "figA1_probe_time", "Fig. A1: belief in the subgoal as its segment goes on",
        "Within a trajectory the probability of the true subgoal rises with time.",
        figures.probe_by_time, "irl-ray probe MODEL --out X.json",
    ),
    Section(
        "fig4_control", "Figs. 4, A2: controllers trained with labels, by layer",
        "Mid-depth is best; success on the unseen task about .5 to .7 on gridworld.",
        figures.control_by_layer, "irl-ray control MODEL --out X.json",
    ),
    Section(
        "fig6_switches", "Figs. 6, A3: when the switch fires",
        "β becomes quasi-binary and fires where subgoals change, though nothing asks it to.",
        figures.switches_over_time, "irl-ray codes MODEL --out X.json",
    ),
    Section(
        "figA4_injection", "Fig. A4, B.3.2: codes from free walks, injected elsewhere",
        "Ant, at step 30: reaching the code's object rises from .23 to .36; for the unseen transition 0→1 from .10 "
        "to .24.",
        figures.injected_codes, "irl-ray codes MODEL --out X.json",
    ),
    Section(
        "fig7_rate_distortion", "Fig. 7: rate and distortion, base model frozen and trained along",
        "With the frozen base model a horizontal gap appears beside the subgoal-aligned solutions; trained along it "
        "does not, and most runs collapse to one switch at the start.",
        figures.rate_distortion,
        "rllib train file tuned_configs/gridworld_{,whole_,taught_}alpha_sweep.yaml, and ..._cotrain.yaml",
    ),
    Section(
        "fig8_learning", "Fig. 8: reinforcement learning",
        "About .8 success on gridworld and about .6 (normalised) on the ant within a million episodes; every baseline "
        "stays near 0.",
        figures.learning_curves, "rllib train file tuned_configs/gridworld_internal.yaml, and the baselines' files",
    ),
    Section(
        "figE2_variance", "E.2: variance of policy gradients",
        "With one code per abstract action the estimate's variance does not grow with the number of raw steps.",
        figures.gradient_variance, "irl-ray variance MODEL --out X.json",
    ),
    Section(
        "sweep_alpha", "Discovery over α",
        "α swept over 0, .05, .1, .17, .3, .5, 1.",
        figures.sweep_figure("alpha", _GATES, "α", symlog=0.001),
        "rllib train file tuned_configs/gridworld_whole_alpha_sweep.yaml",
    ),
    Section(
        "sweep_latent", "Discovery over the size of a code",
        "n_z = 8 throughout.",
        figures.sweep_figure("metacontroller.code_size", _GATES, "n_z"),
        "rllib train file tuned_configs/gridworld_{latent_sweep,taught_latent_sweep}.yaml",
    ),
    Section(
        "goals_alpha", "Goals of the objective alone, over α",
        "α swept over 0, .05, .1, .17, .3, .5, 1.",
        figures.goals_figure("alpha", "α", symlog=0.05),
        "rllib train file tuned_configs/gridworld_alpha_sweep.yaml",
    ),
    Section(
        "goals_latent", "Goals of the objective alone, over the size of a code",
        "n_z = 8 throughout.",
        figures.goals_figure("metacontroller.code_size", "n_z"),
        "rllib train file tuned_configs/gridworld_latent_sweep.yaml",
    ),
    Section(
        "scan_lr", "C.5.5: learning rates of RL",
        "Searched over 3e-6, 1e-5, 3e-5, 1e-4, 3e-4; 3e-5 in the tables.",
        figures.learning_rates, "rllib train file tuned_configs/gridworld_taught_lr_scan.yaml",
    ),
)  # fmt: skip


def write(results: Results, out: Path, plt: Any) -> list[str]:
    """Writes figures (SVG, PNG), their CSVs and index.html into `out`.

    Args:
        results: everything that was run.
        out: folder.
        plt: `matplotlib.pyplot`.

    Returns:
        The names of the sections for which nothing was run.
    """
    out.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "irl_ray"  # the same results give the same files
    parts, missing = [_table("Method by environment", "methods", *method_table(results), out)], []
    for section in SECTIONS:
        drawn = section.draw(plt, results)
        if drawn is None:
            missing.append(section.name)
            parts.append(_not_run(section.name, section.title, section.paper, section.command))
            continue
        for suffix, extra in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": 160})):
            drawn.figure.savefig(out / f"{section.name}{suffix}", **extra)
        plt.close(drawn.figure)
        _csv(out / f"{section.name}.csv", drawn.header, drawn.rows)
        parts.append(_figure(section, drawn, out))
    parts.append("<h2 id='questions'>Questions the paper leaves open</h2>")
    for question in QUESTIONS:
        part = _question(question, results, out)
        command = f"rllib train file tuned_configs/{question.experiment}.yaml"
        parts.append(part or _not_run(question.experiment, question.title, question.asked, command, level=3))
        missing += [] if part else [question.experiment]
    page = _PAGE.format(style=_STYLE, body="\n".join(parts), scratch=FROM_NOTHING, revision=code_revision(),
                        contents=_contents())  # fmt: skip
    (out / "index.html").write_text(page, encoding="utf-8")
    return missing


def _contents() -> str:
    links = [
        ("methods", "Methods"),
        *((s.name, s.title.split(":")[0]) for s in SECTIONS),
        ("questions", "Open questions"),
    ]
    return " · ".join(f"<a href='#{name}'>{html.escape(title)}</a>" for name, title in links)


def _csv(path: Path, header: Row, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _figure(section: Section, drawn: Drawn, out: Path) -> str:
    picture = base64.b64encode((out / f"{section.name}.svg").read_bytes()).decode()
    sources = "".join(f"<li><code>{html.escape(line)}</code></li>" for line in drawn.sources)
    return (
        f"<section id='{section.name}'><h2>{html.escape(section.title)}</h2>"
        f"<img alt='{html.escape(section.title)}' src='data:image/svg+xml;base64,{picture}'>"
        f"<p><b>Paper.</b> {html.escape(section.paper)}</p><p><b>Ours.</b> {html.escape(drawn.words)}</p>"
        f"<details><summary>made from</summary><ul>{sources}</ul></details>"
        f"<p class='files'><a href='{section.name}.csv'>CSV</a> <a href='{section.name}.svg'>SVG</a> "
        f"<a href='{section.name}.png'>PNG</a></p></section>"
    )


def _question(question: Question, results: Results, out: Path) -> str | None:
    answer = question.answer(results)
    if answer is None:
        return None
    asked = f"<p><b>Paper.</b> {html.escape(question.asked)}</p><p><b>Ours.</b> {html.escape(answer.words)}</p>"
    return _table(question.title, question.experiment, answer.header, answer.rows, out, level=3, words=asked)


def _not_run(name: str, title: str, paper: str, command: str, level: int = 2) -> str:
    return (
        f"<section id='{name}'><h{level}>{html.escape(title)}</h{level}><p><b>Paper.</b> {html.escape(paper)}</p>"
        f"<p class='missing'>Not run: <code>{html.escape(command)}</code></p></section>"
    )


def _table(title: str, name: str, header: Row, rows: list[Row], out: Path, level: int = 2, words: str = "") -> str:
    _csv(out / f"{name}.csv", header, rows)
    cells = lambda row, tag: "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row)  # noqa: E731
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    body = body or f"<tr><td colspan='{len(header)}' class='missing'>Not run</td></tr>"
    return (
        f"<section id='{name}'><h{level}>{html.escape(title)}</h{level}>{words}<div class='wide'><table>"
        f"<tr>{cells(header, 'th')}</tr>{body}</table></div><p class='files'><a href='{name}.csv'>CSV</a></p></section>"
    )


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #111; }
h2 { margin-top: 3rem; } img { max-width: 100%; height: auto; } code { font-size: .85em; }
table { border-collapse: collapse; font-size: .85rem; } td, th { border-bottom: 1px solid #ccc; padding: .3rem .6rem;
text-align: left; vertical-align: top; } 
.wide { overflow-x: auto; } .missing { color: #a00; } .files a { margin-right: 1rem; }
nav { font-size: .9rem; } details { font-size: .9rem; overflow-wrap: anywhere; }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>irl_ray: the paper's figures, ours</title><style>{style}</style></head><body>
<h1>Internal RL: the paper's figures, ours</h1>
<p>Counterparts, at small scale, of the figures of <a href="https://arxiv.org/abs/2512.20605">arXiv 2512.20605</a>.
Every figure has a CSV beside it; what was not run says so. Lines are medians, areas quartiles over runs.
Revision {revision}.</p>
<p>F1 of switches allows for ±1 step on the gridworld and ±5 on the ant. Success of the ant is as measured; the paper
divides by its expert's .7, ours has .99.</p>
<p>From the released weights: <code>{scratch}</code></p>
<nav>{contents}</nav>
{body}
</body></html>
"""
